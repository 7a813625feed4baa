//! Test programs that are controlled by lines.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{PATIENCE, spawn};

/// Python that the programs of the tests share: see the file.
pub const PRELUDE: &str = include_str!("prelude.py");

/// Names that programs were given, by process.
static NAMES: Mutex<BTreeMap<u32, String>> = Mutex::new(BTreeMap::new());

/// A unique name of at most 14 bytes, so that a suffix distinguishes children of a program.
pub fn new_comm() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let comm = format!("{}{number}", own_prefix());
    assert!(comm.len() <= 14, "{comm}");
    comm
}

const PREFIX: &str = "obs-";

fn own_prefix() -> String {
    // A pid has at most 22 bits.
    format!("{PREFIX}{:x}-", std::process::id())
}

/// Whether a test in another process, which runs at the same time, gave a program this name.
pub fn is_of_another_test(comm: &str) -> bool {
    comm.starts_with(PREFIX) && !comm.starts_with(&own_prefix())
}

/// The name that a test gave a process.
pub fn comm_of(pid: u32) -> Option<String> {
    NAMES.lock().unwrap().get(&pid).cloned()
}

/// Python that gives the program its name before anything else; `name()` is for its children.
fn named(comm: &str, source: &str) -> String {
    format!(
        "COMM = '{comm}'\ndef name(comm):\n    import ctypes\n    \
         ctypes.CDLL(None).prctl(15, comm.encode(), 0, 0, 0)\nname(COMM)\n{source}"
    )
}

/// A real program that communicates with the test in lines: it prints each step and waits for a
/// line before it continues, so that nothing depends on timing.
pub struct Program {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Program {
    pub fn spawn(command: &mut Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        // Node.js makes the pipe that it gets non-blocking. If it were that of the test, what the test prints could fail.
        if let Ok(own) = File::options().append(true).open("/dev/stderr") {
            command.stderr(own);
        }
        let mut child = spawn(command).expect("the program can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The same, for a program that sets its name to `comm` before it opens a socket.
    pub fn spawn_as(comm: &str, command: &mut Command) -> Self {
        let this = Self::spawn(command);
        NAMES.lock().unwrap().insert(this.pid(), comm.to_owned());
        this
    }

    /// Runs Python source that communicates with `print()` and `input()`. The process has a unique
    /// name, `COMM`, which `name()` changes.
    pub fn python(source: &str, args: &[&str]) -> Self {
        Self::python_by(&mut Command::new("python3"), source, args)
    }

    /// The same by a command that runs Python.
    pub fn python_by(command: &mut Command, source: &str, args: &[&str]) -> Self {
        let comm = new_comm();
        let source = named(&comm, source);
        Self::spawn_as(&comm, command.args(["-u", "-c", &source]).args(args))
    }

    /// The name that it was given.
    pub fn comm(&self) -> String {
        comm_of(self.pid()).expect("a program with a name of its own")
    }

    /// The name that one of its children has, which called `name(COMM + suffix)`.
    pub fn comm_of_child(&self, suffix: char) -> String {
        format!("{}{suffix}", self.comm())
    }

    /// The process id. `ip netns exec` replaces itself, so it is the program's own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        self.line_within(PATIENCE)
    }

    /// The same, for something that may take longer.
    pub fn line_within(&mut self, patience: Duration) -> String {
        self.lines.recv_timeout(patience).unwrap_or_else(|error| {
            panic!(
                "the program says nothing ({error}): {:?}",
                self.child.try_wait()
            )
        })
    }

    /// The printed lines that were not read yet.
    pub fn printed(&mut self) -> impl Iterator<Item = String> {
        self.lines.try_iter()
    }

    /// Waits for a line that must be `expected`.
    pub fn expect(&mut self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    /// Sends a line, so that it continues.
    pub fn go(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        stdin.write_all(b"\n").unwrap();
    }

    /// Says something to it.
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{line}").unwrap();
    }

    /// The next line it prints, which must be `name=count` words.
    pub fn tally(&mut self) -> BTreeMap<String, u64> {
        self.line()
            .split_whitespace()
            .map(|word| {
                let (name, count) = word.split_once('=').expect("name=count");
                (name.to_owned(), count.parse().expect("a count"))
            })
            .collect()
    }

    /// Sends a line, and waits for it to exit successfully.
    pub fn end(mut self) {
        self.go();
        self.finish();
    }

    /// Waits for it to exit successfully.
    pub fn finish(mut self) {
        let stdin = self.child.stdin.take();
        drop(stdin);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the program failed: {status}");
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    /// Also ends its children: a child that waits for the program would wait forever with this
    /// process's stderr open, and block the reader of stderr.
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Runs a command, which must succeed, and returns its output.
pub fn run(program: &str, args: &[&str]) -> String {
    checked(Command::new(program).args(args).output().unwrap(), program)
}

pub(crate) fn checked(output: Output, program: &str) -> String {
    assert!(
        output.status.success(),
        "{program} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Has a command run a program of `observer/tests`: a file in Python.
pub fn python<'a>(command: &'a mut Command, file: &Path) -> &'a mut Command {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    // No byte code files in the source tree.
    command
        .env("PYTHONPATH", &tests)
        .arg("-B")
        .arg(tests.join(file))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_does_not_make_the_output_of_the_test_non_blocking() {
        let flags = || {
            let text = fs::read_to_string("/proc/self/fdinfo/2").expect("there is one");
            let line = text.lines().find(|it| it.starts_with("flags:"));
            line.expect("it has flags").to_owned()
        };
        let before = flags();
        let mut program = Program::python(
            "import fcntl, os\nfcntl.fcntl(2, fcntl.F_SETFL, os.O_NONBLOCK)\nprint('done')",
            &[],
        );
        assert_eq!(program.line(), "done");
        assert_eq!(flags(), before);
        program.finish();
    }
}
