//! quic-go in Go programs.

use observer_common::{
    QUIC_ATTEMPTED, QUIC_CANCEL, QUIC_CANCEL_BY, QUIC_CLOSED, QUIC_COMPLETE, QUIC_FRAME,
    QUIC_LEVEL_DROPPED, QUIC_NEXT,
};

use super::{
    super::{Misfit, quic_on},
    file::File,
    go::{GO_1_26, program},
};

const NEW: &str = "github.com/quic-go/quic-go";
const OLD: &str = "github.com/lucas-clemente/quic-go";

/// Functions of the versions 0.29 or 0.46 and 0.53, with what a probe on each is told.
fn functions(path: &str, is_old: bool) -> Vec<(Option<u32>, String)> {
    let (connection, receive, send, cancel, write) = if is_old {
        (
            "connection",
            "receiveStream",
            "sendStream",
            "cancelWriteImpl",
            "Write",
        )
    } else {
        (
            "Conn",
            "ReceiveStream",
            "SendStream",
            "cancelWrite",
            "Append",
        )
    };
    // Under the old path its arguments are others.
    let cancel_by = (path != OLD).then_some(QUIC_CANCEL_BY);
    let of = |event, name: String| (event, format!("{path}{name}"));
    vec![
        of(None, ".(*streamsMap).ResetFor0RTT".to_owned()),
        of(
            Some(QUIC_ATTEMPTED),
            format!(".(*{connection}).restoreTransportParameters"),
        ),
        of(
            Some(QUIC_LEVEL_DROPPED),
            format!(".(*{connection}).dropEncryptionLevel"),
        ),
        of(
            Some(QUIC_COMPLETE),
            format!(".(*{connection}).handleHandshakeComplete"),
        ),
        of(None, format!(".(*{connection}).handleHandshakeConfirmed")),
        of(
            Some(QUIC_CLOSED),
            format!(".(*{connection}).handleCloseError"),
        ),
        of(Some(QUIC_CANCEL), format!(".(*{receive}).CancelRead")),
        of(Some(QUIC_CANCEL), format!(".(*{send}).CancelWrite")),
        of(cancel_by, format!(".(*{send}).{cancel}")),
        of(Some(QUIC_NEXT), format!(".(*{connection}).NextConnection")),
        of(
            Some(QUIC_FRAME),
            format!("/internal/wire.(*ResetStreamFrame).{write}"),
        ),
        of(
            Some(QUIC_FRAME + 1),
            format!("/internal/wire.(*StopSendingFrame).{write}"),
        ),
        of(
            Some(QUIC_FRAME + 2),
            "/internal/wire.parseResetStreamFrame".to_owned(),
        ),
        of(
            Some(QUIC_FRAME + 3),
            "/internal/wire.parseStopSendingFrame".to_owned(),
        ),
    ]
}

/// What is found in a program with these functions.
fn found(functions: &[(Option<u32>, String)]) -> Result<Option<Vec<(u32, u64)>>, Misfit> {
    found_with(functions, "")
}

/// The same with this in its build information.
fn found_with(
    functions: &[(Option<u32>, String)],
    modules: &str,
) -> Result<Option<Vec<(u32, u64)>>, Misfit> {
    let names: Vec<_> = functions.iter().map(|(_, name)| name.as_str()).collect();
    let file = program(GO_1_26, &names).file;
    let bytes = [&*file.write(), modules.as_bytes()].concat();
    quic_on(&bytes, Some(file.machine)).map(|found| {
        found.map(|mut points| {
            points.sort_unstable();
            points
        })
    })
}

/// What has to be found.
fn expected(functions: &[(Option<u32>, String)]) -> Vec<(u32, u64)> {
    let names: Vec<_> = functions.iter().map(|(_, name)| name.as_str()).collect();
    let placed = program(GO_1_26, &names).functions;
    let mut points: Vec<_> = functions
        .iter()
        .zip(placed)
        .filter_map(|((event, _), (_, address))| Some(((*event)?, File::position(address))))
        .collect();
    points.sort_unstable();
    points
}

#[test]
fn functions_of_old_and_new_versions_are_found() {
    for (path, is_old) in [(NEW, false), (OLD, true), (NEW, true)] {
        let functions = functions(path, is_old);
        assert_eq!(found(&functions), Ok(Some(expected(&functions))));
    }
}

#[test]
fn a_program_that_never_goes_on_is_probed_and_one_without_what_is_needed_is_not() {
    let mut all = functions(NEW, false);
    all.retain(|(event, _)| *event != Some(QUIC_NEXT));
    // Nobody would read how many streams it cancels.
    for (event, _) in &mut all {
        event.take_if(|it| [QUIC_CANCEL, QUIC_CANCEL_BY].contains(it));
    }
    assert_eq!(found(&all), Ok(Some(expected(&all))));
    all.retain(|(event, _)| *event != Some(QUIC_CLOSED));
    let missing = format!("{NEW}.(*Conn).handleCloseError");
    assert_eq!(found(&all), Err(Misfit::Missing(missing)));
}

#[test]
fn cancelled_streams_do_not_matter_with_a_version_without_the_fault() {
    let all = functions(NEW, false);
    let modules =
        |version| format!("path\tx\ndep\tgithub.com/a/b\tv1.2.3\th1:c=\ndep\t{NEW}\t{version}");
    for version in [
        "v0.47.9\th1:d=\n",
        "v0.4",
        "v0.",
        "",
        "v0.48x\t",
        "v99999999999.1.1",
    ] {
        let found = found_with(&all, &modules(version));
        assert_eq!(found, Ok(Some(expected(&all))), "{version}");
    }
    let mut without = all.clone();
    for (event, _) in &mut without {
        event.take_if(|it| [QUIC_CANCEL, QUIC_CANCEL_BY].contains(it));
    }
    // What is linked is another module.
    let replaced = modules("v0.50.0\n=>\tgithub.com/me/quic-go\tv0.46.1\th1:d=\n");
    assert_eq!(found_with(&all, &replaced), Ok(Some(expected(&all))));
    for version in ["v0.48.0\th1:d=\n", "v0.59.1-0.2026\t", "v1.0.0"] {
        let found = found_with(&all, &modules(version));
        assert_eq!(found, Ok(Some(expected(&without))), "{version}");
    }
}

#[test]
fn other_programs_have_none() {
    let others = [
        (None, "main.main".to_owned()),
        (None, format!("{NEW}.Dial")),
    ];
    assert_eq!(found(&others), Ok(None));
}
