//! Functions of quic-go in a Go program, by their names in its versions 0.29 to 0.64.

use observer_common::{
    QUIC_ATTEMPTED, QUIC_CANCEL, QUIC_CANCEL_BY, QUIC_CLOSED, QUIC_COMPLETE, QUIC_FRAME,
    QUIC_LEVEL_DROPPED, QUIC_NEXT,
};

use super::{bytes::Bytes, elf::Elf, go, misfit::Misfit};

/// Import paths: the second up to 0.33.
const PATHS: [&str; 2] = ["github.com/quic-go/quic-go", OLD_PATH];
const OLD_PATH: &str = "github.com/lucas-clemente/quic-go";

/// From this version on, streams that are cancelled after a rejection do not reset new ones (quic-go issue 4706).
const MENDED: (u32, u32) = (0, 48);

/// A function that each of them has, and that is never inlined.
const MARK: &str = ".(*streamsMap).ResetFor0RTT";

/// Functions by what the probes on them are told. Types were renamed in 0.53. A function that calls another of these
/// may be inlined into its callers, so both are here.
const FUNCTIONS: [(u32, &[&str]); 11] = [
    (
        QUIC_ATTEMPTED,
        &[
            ".(*Conn).restoreTransportParameters",
            ".(*connection).restoreTransportParameters",
        ],
    ),
    (
        QUIC_LEVEL_DROPPED,
        &[
            ".(*Conn).dropEncryptionLevel",
            ".(*connection).dropEncryptionLevel",
        ],
    ),
    (
        QUIC_COMPLETE,
        &[
            ".(*Conn).handleHandshakeComplete",
            ".(*connection).handleHandshakeComplete",
        ],
    ),
    (
        QUIC_CLOSED,
        &[
            ".(*Conn).handleCloseError",
            ".(*connection).handleCloseError",
        ],
    ),
    (
        QUIC_NEXT,
        &[".(*Conn).NextConnection", ".(*connection).NextConnection"],
    ),
    (
        QUIC_CANCEL,
        &[
            ".(*ReceiveStream).CancelRead",
            ".(*receiveStream).CancelRead",
            ".(*SendStream).CancelWrite",
            ".(*sendStream).CancelWrite",
        ],
    ),
    (
        QUIC_CANCEL_BY,
        &[
            // 0.53.
            ".(*SendStream).cancelWrite",
            // 0.50.
            ".(*sendStream).cancelWrite",
            // 0.46.
            ".(*sendStream).cancelWriteImpl",
        ],
    ),
    (
        QUIC_FRAME,
        &[
            "/internal/wire.(*ResetStreamFrame).Append",
            // 0.29, like the next one.
            "/internal/wire.(*ResetStreamFrame).Write",
        ],
    ),
    (
        QUIC_FRAME + 1,
        &[
            "/internal/wire.(*StopSendingFrame).Append",
            "/internal/wire.(*StopSendingFrame).Write",
        ],
    ),
    (QUIC_FRAME + 2, &["/internal/wire.parseResetStreamFrame"]),
    (QUIC_FRAME + 3, &["/internal/wire.parseStopSendingFrame"]),
];

/// How many of [`FUNCTIONS`], from the first on, a connection's outcome cannot be told without. `NextConnection` is not
/// there in programs that do not call it.
const REQUIRED: usize = 4;

/// What is probed: what the probe is told, and the first instruction's offset in the file.
pub type Points = Vec<(u32, u64)>;

pub fn quic(elf: &Elf<'_>, file: &dyn Bytes) -> Result<Option<Points>, Misfit> {
    let marks = PATHS.map(|path| format!("{path}{MARK}"));
    let marks = entries(elf, &marks)?;
    let Some(path) = marks.iter().position(Option::is_some) else {
        return Ok(None);
    };
    let path = PATHS[path];
    let all = FUNCTIONS.iter();
    let all = all.flat_map(|(event, names)| names.iter().map(move |name| (*event, name)));
    let (events, names): (Vec<_>, Vec<_>) = all
        .map(|(event, name)| (event, format!("{path}{name}")))
        .unzip();
    let found = events.into_iter().zip(entries(elf, &names)?);
    let mut points: Points = found
        .filter_map(|(event, entry)| Some((event, entry?)))
        .collect();
    // Up to 0.31 the third argument is another one, and `CancelWrite` is never inlined.
    if path == OLD_PATH {
        points.retain(|(event, _)| *event != QUIC_CANCEL_BY);
    }
    // Cancelled streams are counted for what is told when the program goes on, and do no harm since 0.48.
    let goes_on = points.iter().any(|(event, _)| *event == QUIC_NEXT);
    if !goes_on || version(file).is_some_and(|it| it >= MENDED) {
        points.retain(|(event, _)| ![QUIC_CANCEL, QUIC_CANCEL_BY].contains(event));
    }
    let required = FUNCTIONS.iter().take(REQUIRED);
    for (event, names) in required {
        if !points.iter().any(|(found, _)| found == event) {
            return Err(Misfit::Missing(format!("{path}{}", names[0])));
        }
    }
    Ok(Some(points))
}

/// Longest line of a module in the build information that is looked at.
const MAX_LINE: usize = 512;

/// Major and minor number of quic-go, which the linker writes to the build information if the program was built with
/// modules: `dep`, path, version and hash, with tabs between. `None` if another module replaces it (a following line `=>`).
fn version(file: &dyn Bytes) -> Option<(u32, u32)> {
    let module = format!("dep\t{}\tv", PATHS[0]);
    let rest = file.find(module.as_bytes(), MAX_LINE)?;
    let version = rest.iter().take(32).copied();
    let version: Vec<_> = version.take_while(u8::is_ascii_graphic).collect();
    let next = rest
        .iter()
        .position(|it| *it == b'\n')
        .map(|end| &rest[end + 1..]);
    if next.is_some_and(|next| next.starts_with(b"=>\t")) {
        return None;
    }
    let mut numbers = std::str::from_utf8(&version).ok()?.splitn(3, '.');
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

/// The first instructions of functions; none in a file that is no Go program.
fn entries(elf: &Elf<'_>, names: &[String]) -> Result<Vec<Option<u64>>, Misfit> {
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let Some(functions) = go::functions(elf, &names)? else {
        return Ok(vec![None; names.len()]);
    };
    let entries = functions.into_iter();
    Ok(entries.map(|it| it.map(|it| it.entry)).collect())
}
