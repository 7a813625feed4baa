//! Functions found in a file. All positions are file offsets, as uprobes need them.

/// The functions of a TLS library to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// OpenSSL, also linked into a program: the functions behind its method tables, which every
    /// handshake runs through. Both may be entered several times for one handshake.
    OpenSsl {
        /// `ossl_statem_connect`.
        connect: u64,
        /// `ossl_statem_accept`.
        accept: u64,
        /// `SSL_free`.
        free: u64,
        /// Functions that reset a connection: `SSL_clear`, `SSL_set_connect_state`, `SSL_set_accept_state`, as far as they
        /// exist.
        resets: Vec<u64>,
        /// Offset of `rwstate` in what the first argument of these points to (`SSL`, or since 3.2
        /// `SSL_CONNECTION`), in bytes. `None` if `SSL_want` could not be decoded.
        rwstate: Option<u32>,
    },
    /// A library with OpenSSL's functions and without its method tables: BoringSSL.
    DoHandshake {
        /// `SSL_do_handshake`.
        handshake: u64,
        /// `SSL_free`.
        free: u64,
    },
    /// GnuTLS.
    GnuTls {
        /// `gnutls_handshake`.
        handshake: u64,
        /// `gnutls_deinit`.
        deinit: u64,
    },
    /// A Go program with crypto/tls. At least one of the two exists; the linker omits the server's
    /// in programs that are only clients.
    Go {
        /// `crypto/tls.(*Conn).clientHandshake`.
        client: Option<Function>,
        /// `crypto/tls.(*Conn).serverHandshake`.
        server: Option<Function>,
    },
}

impl Tls {
    /// Number of instructions that are probed; of a function's return, one more than of its entry.
    #[must_use]
    pub fn probes(&self) -> usize {
        match self {
            Self::OpenSsl { resets, .. } => 5 + resets.len(),
            Self::DoHandshake { .. } | Self::GnuTls { .. } => 3,
            Self::Go { client, server } => {
                let functions = [client, server].into_iter().flatten();
                functions.map(|it| 1 + it.returns.len()).sum()
            }
        }
    }
}

/// A function of which each return is probed, because a return probe (uretprobe) exchanges return
/// addresses, which Go's runtime finds when it moves a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its first instruction.
    pub entry: u64,
    /// Its RET instructions, ascending. All of them, or none: the list is empty if the function can end
    /// in another way, such as by a jump to another function. Never empty in [`Tls`].
    pub returns: Vec<u64>,
}
