//! Programs on functions of user space. The daemon finds the functions in the files that processes map, and says
//! by a cookie what each one is. They run in the thread that calls the function.

mod quic;
mod regs;
mod stack;
mod tls;
