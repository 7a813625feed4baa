//! Programs on functions of user space. The daemon finds the functions in the files that processes
//! map, and identifies each by a cookie. The programs run in the thread that calls the function.

mod quic;
mod regs;
mod stack;
mod tls;
