//! TLS handshakes as before 6.6: only files that are there at the start are probed.

use std::{fs, io::Write as _};

use observer_test_support::{Daemon, Netns, PRELUDE, Program, skip};

use crate::tls::{Files, expect, mapped, outcomes, outcomes_are_counted};

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn handshakes_in_files_that_are_mapped_at_the_start_are_counted() {
    let (files, netns) = (Files::new(), Netns::new());
    let program = outcomes(&netns, &files);
    // Of a library that only this process has.
    let library = mapped(program.pid(), "libssl");
    let copy = files.path("libssl.so.3");
    fs::copy(&library, &copy).expect("the library can be copied");
    let start = |preloaded: Option<&str>| {
        let mut command = netns.command("python3");
        command.envs(preloaded.map(|library| ("LD_PRELOAD", library)));
        let source = [PRELUDE, crate::tls::SHARED, crate::tls::ONE].concat();
        let arguments = [&*files.certificate(), &files.key()];
        let mut program = Program::python_by(&mut command, &source, &arguments);
        program.expect("ready");
        program
    };
    let mut mapping = start(Some(&copy));
    let daemon = Daemon::start(&["--hooks=kprobe", "--user=nobody", "--tls=auto"]);
    let metrics = daemon.scrape();
    if !metrics.observes("tls") {
        skip!("this kernel has no attach cookies")
    }
    let attached = [("signal", "tls"), ("attach_type", "uprobe")];
    assert!(
        metrics.has("observer_hook_attached", &attached),
        "{}",
        metrics.shown()
    );
    outcomes_are_counted(&daemon, program);
    let once = |program: &mut Program| {
        program.go();
        program.expect("done");
        for role in ["client", "server"] {
            expect(&daemon, &program.comm(), "openssl", role, [1, 0]);
        }
    };
    once(&mut mapping);
    // The system's library, in a process that is new.
    let mut new = start(None);
    once(&mut new);
    // A file that is new is not probed, and nothing is said to have gone wrong.
    let other = files.path("libssl-2.so.3");
    fs::copy(&library, &other).expect("the library can be copied");
    let mut later = start(Some(&other));
    later.go();
    later.expect("done");
    once(&mut start(None));
    assert!(
        !daemon
            .scrape()
            .has("socket_tls_handshakes_total", &[("comm", &later.comm())])
    );
    assert!(!daemon.log().contains("cannot probe"), "{}", daemon.log());
    // What is written to is detached, though privileges are dropped by now.
    let probed = |daemon: &Daemon| {
        let metrics = daemon.scrape();
        metrics.sum("observer_tls_files", &[("library", "openssl")])
    };
    let before = probed(&daemon);
    fs::OpenOptions::new()
        .append(true)
        .open(&copy)
        .and_then(|mut file| file.write_all(b"x"))
        .expect("a library can be written to");
    daemon.wait("the file is not probed any more", |daemon| {
        probed(daemon) == before - 1.0
    });
    for program in [mapping, new, later] {
        program.end();
    }
}
