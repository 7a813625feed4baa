use super::*;

fn kernel(name: &str) -> Kernel {
    Kernel {
        name: name.parse().unwrap(),
        release: name.to_owned(),
        version: "1".to_owned(),
        dir: PathBuf::new(),
        image: PathBuf::new(),
    }
}

fn units(names: &[&str]) -> Vec<Unit> {
    names.iter().copied().map(Unit::named).collect()
}

#[test]
fn every_kernel_runs_every_unit_once() {
    let names: Vec<_> = (0..7).map(|unit| unit.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let kernels = ["5.10", "6.1", "7.3"].map(|name| (kernel(name), units(&names)));
    for at_once in [1, 2, 3, 8, 100] {
        let guests = plan(&kernels, at_once);
        for (kernel, units) in &kernels {
            let of = |guest: &&Guest<'_>| guest.kernel.name == kernel.name;
            let own: Vec<_> = guests.iter().filter(of).collect();
            assert_eq!(own.iter().filter(|guest| guest.part.check).count(), 1);
            let mut run: Vec<_> = own.iter().flat_map(|guest| &guest.part.units).collect();
            run.sort_by_key(|unit| &unit.name);
            assert_eq!(run, units.iter().collect::<Vec<_>>(), "{at_once} at once");
        }
    }
    // Nothing to divide.
    let check_only = ["5.10", "6.1"].map(|name| (kernel(name), Vec::new()));
    assert_eq!(plan(&check_only, 2).len(), 2);
}

/// A run with scripted guests: for each boot, how it ends and its output.
struct Script {
    retries: Retries,
    boots: Vec<String>,
}

impl Script {
    /// Simulates boots until no test has to be repeated. `play` gets the names of the guest and of its units.
    fn run(first: Guest<'_>, play: impl Fn(&str, &str) -> (End, String)) -> Self {
        let mut script = Self {
            retries: Retries::default(),
            boots: Vec::new(),
        };
        let mut next = vec![first];
        while !next.is_empty() {
            for guest in std::mem::take(&mut next) {
                let names = guest.part.names();
                let (end, output) = play(&guest.name, &names);
                let lines = output.lines().map(|line| (Duration::ZERO, line.to_owned()));
                let outcome = outcome::parse(&lines.collect::<Vec<_>>());
                let log = Path::new("/logs").join(&guest.name);
                let items = items(&guest, &end, &outcome, &log, &AttachTypes::default());
                next.extend(script.retries.take(&guest, items));
                script.boots.push(format!("{}: {names}", guest.name));
            }
            assert!(script.boots.len() < 20, "{:?}", script.boots);
        }
        script
    }

    fn report(self) -> Report {
        self.retries.finish()
    }
}

fn names(failures: &[Failure]) -> Vec<&str> {
    let names = failures.iter().map(|failure| failure.name.as_str());
    names.collect()
}

fn guest<'a>(kernel: &'a Kernel, names: &[&str]) -> Guest<'a> {
    Guest {
        kernel,
        name: "6.1".to_owned(),
        origin: "6.1".to_owned(),
        part: Part {
            units: units(names),
            ..Part::default()
        },
    }
}

const OK_A: &str = "@@ begin a\ntest x ... ok\n@@ end a 0\n";
const OK_B: &str = "@@ begin b\ntest y ... ok\n@@ end b 0\n";
const BAD_B: &str = "@@ begin b\ntest y ... ok\ntest z ... \n\
                     thread 'z' (1) panicked at b.rs:1:2:\nz is wrong\nFAILED\n@@ end b 101\n";

fn panicked() -> End {
    End::Panicked("Oops".to_owned())
}

#[test]
fn all_is_well() {
    let kernel = kernel("6.1");
    let script = Script::run(guest(&kernel, &["a", "b"]), |_, _| {
        (End::Finished, format!("{OK_A}{OK_B}"))
    });
    assert_eq!(script.boots, ["6.1: a, b"]);
    assert_eq!(script.report(), Report::default());
}

#[test]
fn a_failed_test_that_passes_alone_is_flaky() {
    let kernel = kernel("6.1");
    let script = Script::run(guest(&kernel, &["a", "b"]), |name, _| match name {
        "6.1" => (End::Finished, format!("{OK_A}{BAD_B}")),
        _ => (
            End::Finished,
            "@@ begin b\ntest z ... ok\n@@ end b 0\n".to_owned(),
        ),
    });
    assert_eq!(script.boots, ["6.1: a, b", "6.1.b: b"]);
    let report = script.report();
    assert!(report.ok());
    assert_eq!(names(&report.flaky), ["6.1 b::z"]);
    assert_eq!(
        report.flaky[0].message,
        ["panicked at b.rs:1:2", "z is wrong"]
    );
    assert_eq!(report.flaky[0].log.as_deref(), Some(Path::new("/logs/6.1")));
}

#[test]
fn only_the_failed_test_runs_once_more() {
    let kernel = kernel("6.1");
    let guest = guest(&kernel, &["b"]);
    let lines: Vec<_> = BAD_B
        .lines()
        .map(|line| (Duration::ZERO, line.to_owned()))
        .collect();
    let outcome = outcome::parse(&lines);
    let none = AttachTypes::default();
    let items = items(&guest, &End::Finished, &outcome, Path::new("/logs"), &none);
    let next = Retries::default().take(&guest, items);
    assert_eq!(next[0].part.units[0].tests, ["z"]);
    assert_eq!(next[0].part.attempt, 2);
}

#[test]
fn what_fails_twice_is_red() {
    let kernel = kernel("6.1");
    let script = Script::run(guest(&kernel, &["a", "b"]), |name, _| match name {
        "6.1" => (End::Finished, format!("{OK_A}{BAD_B}")),
        _ => (End::Finished, BAD_B.to_owned()),
    });
    assert_eq!(script.boots.len(), 2);
    let report = script.report();
    assert_eq!(names(&report.failed), ["6.1 b::z"]);
    assert!(report.flaky.is_empty());
    let said = &report.failed[0].message;
    assert!(said.contains(&"z is wrong".to_owned()), "{said:?}");
    assert_eq!(
        report.failed[0].log.as_deref(),
        Some(Path::new("/logs/6.1.b"))
    );
}

#[test]
fn a_unit_that_hangs_runs_once_more_as_a_whole() {
    let kernel = kernel("6.1");
    let script = Script::run(guest(&kernel, &["a", "b"]), |name, _| match name {
        "6.1" => (
            End::Finished,
            format!("@@ begin a\ntest x ... \n@@ end a 137\n{OK_B}"),
        ),
        _ => (End::Finished, OK_A.to_owned()),
    });
    assert_eq!(script.boots, ["6.1: a, b", "6.1.a: a"]);
    let report = script.report();
    assert_eq!(names(&report.flaky), ["6.1 a"]);
    assert_eq!(report.flaky[0].message, ["HUNG", "in x"]);
}

#[test]
fn a_panic_is_the_fault_of_the_unit_and_the_rest_runs_without_it() {
    let kernel = kernel("6.1");
    let script = Script::run(guest(&kernel, &["a", "b", "c"]), |name, _| match name {
        "6.1" => (panicked(), "@@ begin a\ntest x ... \n".to_owned()),
        "6.1.a" => (End::Finished, OK_A.to_owned()),
        _ => (End::Finished, format!("{OK_B}@@ begin c\n@@ end c 0\n")),
    });
    assert_eq!(
        script.boots,
        ["6.1: a, b, c", "6.1.a: a", "6.1.rest1: b, c"]
    );
    let report = script.report();
    assert!(report.ok());
    assert_eq!(names(&report.flaky), ["6.1 a"]);
    let message = &report.flaky[0].message;
    assert!(
        message.contains(&"the kernel panicked (Oops)".to_owned()),
        "{message:?}"
    );
}

#[test]
fn a_kernel_that_panics_at_boot_gets_a_second_try() {
    let kernel = kernel("6.1");
    let boot = |name: &str, _: &str| match name {
        "6.1" => (panicked(), String::new()),
        _ => (End::Finished, format!("{OK_A}{OK_B}")),
    };
    let script = Script::run(guest(&kernel, &["a", "b"]), boot);
    assert_eq!(script.boots, ["6.1: a, b", "6.1.rest1: a, b"]);
    let report = script.report();
    assert!(report.ok());
    assert_eq!(names(&report.flaky), ["6.1 6.1"]);
    // There is no third run.
    let script = Script::run(guest(&kernel, &["a", "b"]), |_, _| {
        (panicked(), String::new())
    });
    assert_eq!(script.boots.len(), 2);
    assert_eq!(names(&script.report().failed), ["6.1 6.1"]);
}

#[test]
fn a_unit_that_hangs_does_not_take_those_of_its_process_with_it() {
    let kernel = kernel("6.1");
    // Ended by the guest, and with it by the host.
    for (end, line) in [
        (End::Finished, "@@ end a+b+c 137\n"),
        (End::Hung("b".to_owned()), ""),
    ] {
        let script = Script::run(guest(&kernel, &["a", "b", "c"]), |name, _| match name {
            "6.1" => {
                let begun = "@@ begin a+b+c\ntest a::x ... ok\ntest b::x ... \n";
                (end.clone(), format!("{begun}{line}"))
            }
            "6.1.b" => (
                End::Finished,
                "@@ begin b\ntest b::x ... ok\n@@ end b 0\n".to_owned(),
            ),
            _ => (
                End::Finished,
                "@@ begin c\ntest c::x ... ok\n@@ end c 0\n".to_owned(),
            ),
        });
        assert_eq!(script.boots, ["6.1: a, b, c", "6.1.b: b", "6.1.rest1: c"]);
        let report = script.report();
        assert!(report.ok());
        assert_eq!(names(&report.flaky), ["6.1 b"]);
    }
}

#[test]
fn a_second_run_that_is_never_reached_is_red() {
    let kernel = kernel("6.1");
    let script = Script::run(guest(&kernel, &["b"]), |name, _| match name {
        "6.1" => (End::Finished, BAD_B.to_owned()),
        _ => (panicked(), String::new()),
    });
    let report = script.report();
    assert!(!report.ok());
    assert!(names(&report.failed).contains(&"6.1 b::z"), "{report}");
}

#[test]
fn a_unit_that_does_not_run_is_no_pass() {
    let kernel = kernel("6.1");
    let script = Script::run(guest(&kernel, &["a", "b"]), |_, _| {
        (End::Finished, OK_A.to_owned())
    });
    assert_eq!(names(&script.report().failed), ["6.1 b"]);
}

#[test]
fn a_check_with_a_lost_hook_is_red() {
    let kernel = kernel("6.1");
    let mut first = guest(&kernel, &[]);
    first.part.check = true;
    let script = Script::run(first, |_, _| {
        let report = r#"{"exit_code":1,"verdicts":[{"signal":"fd","status":"refused"}]}"#;
        (
            End::Finished,
            format!("@@ begin check\n{report}\n@@ end check 1\n"),
        )
    });
    assert_eq!(script.boots, ["6.1: check", "6.1.check: check"]);
    let report = script.report();
    assert_eq!(names(&report.failed), ["6.1 check"]);
    let said = &report.failed[0].message;
    assert!(
        said.contains(&"no hook is attached for fd".to_owned()),
        "{said:?}"
    );
}
