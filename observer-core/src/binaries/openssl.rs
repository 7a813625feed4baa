//! OpenSSL and libraries with the same functions, shared or linked into a program that exports them.
//!
//! Programs need not call `SSL_do_handshake`: SSL_read and SSL_write make a handshake as well. All
//! end in `ossl_statem_connect` or `ossl_statem_accept` (ssl/statem/statem.c), which are hidden. They
//! are members of the tables that `TLS_method` and its siblings return (`SSL_METHOD`, from
//! ssl/methods.c): the general table has both, the client's and the server's one of them and a
//! function that fails in the other place. So no layout of a version has to be known.

use super::{
    elf::{Elf, Symbol},
    found::Tls,
    misfit::Misfit,
};

const METHODS: [&str; 3] = ["TLS_method", "TLS_client_method", "TLS_server_method"];
const FREE: &str = "SSL_free";
const HANDSHAKE: &str = "SSL_do_handshake";
const WANT: &str = "SSL_want";
/// With these a program may use a connection again that has ended.
const RESETS: [&str; 3] = ["SSL_clear", "SSL_set_connect_state", "SSL_set_accept_state"];

/// Members of `SSL_METHOD` that are compared. The two are the 6th and 7th up to 3.1, the 9th and 10th
/// since, and the structure has more than twenty.
const MEMBERS: std::ops::Range<u64> = 2..16;

/// A function that is longer returns more than a member.
const MAX_GETTER: u64 = 1024;

/// The functions behind the tables, as addresses.
struct StateMachine {
    connect: u64,
    accept: u64,
}

pub fn tls(elf: &Elf<'_>) -> Result<Option<Tls>, Misfit> {
    let names = [METHODS[0], METHODS[1], METHODS[2], FREE, HANDSHAKE, WANT];
    let symbols = elf.symbols(&names)?;
    let [method, client, server, free, handshake, want] = symbols[..] else {
        return Ok(None);
    };
    if method.is_none() && handshake.is_none() {
        return Ok(None);
    }
    let free = free.ok_or_else(|| Misfit::Missing(FREE.to_owned()))?;
    let free = elf.entry(FREE, free.address)?;
    if let (Some(method), Some(client), Some(server)) = (method, client, server)
        && let Some(found) = state_machine(elf, [method, client, server])?
    {
        return Ok(Some(Tls::OpenSsl {
            connect: elf.entry("ossl_statem_connect", found.connect)?,
            accept: elf.entry("ossl_statem_accept", found.accept)?,
            free,
            resets: resets(elf)?,
            rwstate: want.and_then(|it| returned_member(elf, it)),
        }));
    }
    let handshake = handshake.ok_or(Misfit::MethodTables)?;
    Ok(Some(Tls::DoHandshake {
        handshake: elf.entry(HANDSHAKE, handshake.address)?,
        free,
    }))
}

fn resets(elf: &Elf<'_>) -> Result<Vec<u64>, Misfit> {
    let symbols = elf.symbols(&RESETS)?;
    let there = RESETS.iter().zip(symbols);
    let there = there.filter_map(|(name, symbol)| Some((name, symbol?)));
    there
        .map(|(name, symbol)| elf.entry(name, symbol.address))
        .collect()
}

/// The entries in which the tables differ. `None` if the functions do not just return tables of
/// functions, as in BoringSSL, whose own are called from `SSL_do_handshake` only.
fn state_machine(elf: &Elf<'_>, methods: [Symbol; 3]) -> Result<Option<StateMachine>, Misfit> {
    let mut members = Vec::new();
    for method in methods {
        let table = elf
            .code_at(method.address, 64)
            .and_then(|(code, _)| elf.machine().returned_address(code, method.address));
        let Some(table) = table else {
            return Ok(None);
        };
        members.extend(MEMBERS.map(|it| table.wrapping_add(8 * it)));
    }
    let pointers = elf.pointers(&members)?;
    let (both, rest) = pointers.split_at(pointers.len() / 3);
    let (clients, servers) = rest.split_at(both.len());
    let (mut connect, mut accept) = (Vec::new(), Vec::new());
    for ((both, client), server) in both.iter().zip(clients).zip(servers) {
        let (Some(both), Some(client), Some(server)) = (*both, *client, *server) else {
            continue;
        };
        if ![both, client, server].iter().all(|it| elf.is_code_at(*it)) {
            continue;
        }
        // With the function that is in the other's place (`ssl_undefined_function`).
        if both == client && both != server {
            connect.push((both, server));
        } else if both == server && both != client {
            accept.push((both, client));
        }
    }
    match (&connect[..], &accept[..]) {
        ([], []) => Ok(None),
        ([(connect, fails)], [(accept, also)]) if fails == also && connect != accept => {
            Ok(Some(StateMachine {
                connect: *connect,
                accept: *accept,
            }))
        }
        _ => Err(Misfit::MethodTables),
    }
}

/// The member that `SSL_want` returns, `rwstate`.
fn returned_member(elf: &Elf<'_>, getter: Symbol) -> Option<u32> {
    if getter.size > MAX_GETTER {
        return None;
    }
    let (code, _) = elf.code_at(getter.address, getter.size)?;
    let code = code.get(..usize::try_from(getter.size).ok()?)?;
    elf.machine().returned_member(code)
}
