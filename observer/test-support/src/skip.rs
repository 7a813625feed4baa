//! Reports skipped tests and parts of tests: xtask parses these lines, because libtest counts such tests as passed.

use std::env;

/// Set if the programs that tests run were installed, so that a missing one is a failure.
const INSTALLED: &str = "OBSERVER_TEST_TOOLS_INSTALLED";

/// Returns from a test that cannot run on this machine, with the reason.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        println!("skipped: {}", format_args!($($reason)+));
        return Default::default();
    }};
}

/// Prints which part of a test is skipped, and why.
#[macro_export]
macro_rules! left_out {
    ($($reason:tt)+) => {
        println!("left out: {}", format_args!($($reason)+))
    };
}

/// Skips the test where a signal is not observed.
#[macro_export]
macro_rules! needs_signal {
    ($metrics:expr, $signal:literal) => {
        if !$metrics.has_signal($signal) {
            $crate::skip!("{} is not observed on this kernel", $signal);
        }
    };
}

/// Skips the test where one of these programs is not installed.
#[macro_export]
macro_rules! needs_programs {
    ($($program:literal),+) => {
        $(if !$crate::has_program($program) {
            $crate::skip!("{} is not installed", $program);
        })+
    };
}

/// Whether the programs that tests run are said to be installed.
pub fn tools_are_installed() -> bool {
    env::var_os(INSTALLED).is_some()
}

/// Whether a program is installed. Panics if it is not although it should be.
pub fn has_program(program: &str) -> bool {
    let found = env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    assert!(
        found || !tools_are_installed(),
        "{program} is not on PATH, although `cargo xtask setup --tests` has run"
    );
    found
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// Asserts that each test below a path is ignored, and returns how many there are.
    fn ignored(path: &Path) -> usize {
        const IGNORE: &str = "#[ignore = \"needs root and BPF: run by cargo xtask test\"]";
        if path.is_dir() {
            let entries = fs::read_dir(path).unwrap();
            return entries.map(|entry| ignored(&entry.unwrap().path())).sum();
        }
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(str::trim);
        let mut tests = 0;
        for (number, (line, next)) in lines.clone().zip(lines.skip(1)).enumerate() {
            if line == "#[test]" {
                assert_eq!(next, IGNORE, "{}:{}", path.display(), number + 2);
                tests += 1;
            }
        }
        tests
    }

    /// A test that is not ignored would fail, or pass without testing anything, without root.
    #[test]
    fn every_test_on_a_real_kernel_is_ignored() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
        assert!(ignored(&tests.join("kernel")) > 100);
        assert_eq!(ignored(&tests.join("kernel_prometheus.rs")), 1);
    }
}
