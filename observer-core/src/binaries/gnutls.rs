//! GnuTLS, by its exported functions.

use super::{elf::Elf, found::Tls, misfit::Misfit};

/// The version that applications call. `gnutls_handshake_set_timeout` and the like start nothing.
const HANDSHAKE: &str = "gnutls_handshake";
/// Frees a session, also one whose handshake has not ended.
const DEINIT: &str = "gnutls_deinit";

pub fn tls(elf: &Elf<'_>) -> Result<Option<Tls>, Misfit> {
    let symbols = elf.symbols(&[HANDSHAKE, DEINIT])?;
    let [Some(handshake), deinit] = symbols[..] else {
        return Ok(None);
    };
    let deinit = deinit.ok_or_else(|| Misfit::Missing(DEINIT.to_owned()))?;
    Ok(Some(Tls::GnuTls {
        handshake: elf.entry(HANDSHAKE, handshake.address)?,
        deinit: elf.entry(DEINIT, deinit.address)?,
    }))
}
