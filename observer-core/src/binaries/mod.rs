//! Finds the functions of a program or library with which TLS handshakes and QUIC connections are
//! observed: file offsets for uprobes.
//!
//! The kernel writes a breakpoint to each position, so a wrong one destroys code. Each position is
//! therefore in an executable segment, with content in the file, and was decoded as an instruction of
//! the function it is named for. A file that leaves a doubt is a [`Misfit`].
//!
//! The file is untrusted input of a local user. Every loop over it is bounded in time and memory, only what matters is
//! read ([`OnDisk`]), and all its data is verified before use.

pub use self::{
    bytes::{Bytes, OnDisk},
    found::{Function, Tls},
    misfit::Misfit,
    quic::Points,
};
use self::{elf::Elf, machine::Machine};

mod arm64;
mod body;
mod bytes;
mod elf;
mod found;
mod gnutls;
mod go;
mod machine;
mod misfit;
mod openssl;
mod quic;
#[cfg(test)]
mod tests;
mod x86;

/// The functions to probe in `file`, an ELF file for the running machine. `None` if it contains none of
/// the known TLS libraries.
pub fn tls(file: &dyn Bytes) -> Result<Option<Tls>, Misfit> {
    tls_on(file, Machine::RUNNING)
}

fn tls_on(file: &dyn Bytes, machine: Option<Machine>) -> Result<Option<Tls>, Misfit> {
    let elf = Elf::parse(file, machine)?;
    // A Go program may be linked with a library in C, but its own handshakes are made in Go.
    if let Some(go) = go::tls(&elf)? {
        return Ok(Some(go));
    }
    if let Some(openssl) = openssl::tls(&elf)? {
        return Ok(Some(openssl));
    }
    gnutls::tls(&elf)
}

/// What there is to probe of quic-go in `file`: what each probe is told, a `QUIC_` number, and its position. `None` if it is
/// no Go program with it.
pub fn quic(file: &dyn Bytes) -> Result<Option<Points>, Misfit> {
    quic_on(file, Machine::RUNNING)
}

fn quic_on(file: &dyn Bytes, machine: Option<Machine>) -> Result<Option<Points>, Misfit> {
    quic::quic(&Elf::parse(file, machine)?, file)
}

/// Functions of the Go program `file` by their full names, such as `crypto/tls.(*Conn).clientHandshake`,
/// in the order of `names`. `None` in the list for a function that is not in the program: the linker
/// omits functions that are never called. `None` instead of a list if `file` is no Go program.
pub fn go_functions(
    file: &dyn Bytes,
    names: &[&str],
) -> Result<Option<Vec<Option<Function>>>, Misfit> {
    go_functions_on(file, names, Machine::RUNNING)
}

fn go_functions_on(
    file: &dyn Bytes,
    names: &[&str],
    machine: Option<Machine>,
) -> Result<Option<Vec<Option<Function>>>, Misfit> {
    go::functions(&Elf::parse(file, machine)?, names)
}
