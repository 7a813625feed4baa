//! Programs that end with the test.

use std::{
    io, mem,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    sync::{LazyLock, Mutex, PoisonError, mpsc},
    thread,
};

use nix::sys::{prctl::set_pdeathsig, signal::Signal};

/// Starts a program that the kernel kills when this process ends, for whatever reason. Consumes `command`.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    // The kernel sends the signal at the end of the thread that started it, so this thread never ends.
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    // SAFETY: between fork() and exec(), it makes one system call and allocates nothing.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
    let command = mem::replace(command, Command::new(""));
    let (sender, reply) = mpsc::channel();
    let spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    spawner.send((command, sender)).expect("it never ends");
    reply.recv().expect("it answers")
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        io::{BufRead as _, BufReader},
        path::Path,
        process::Stdio,
        time::Duration,
    };

    use super::*;

    /// Set where this program runs itself.
    const INNER: &str = "OBSERVER_TEST_SPAWN";

    #[test]
    fn programs_end_with_a_test_that_is_killed() {
        if env::var_os(INNER).is_some() {
            let mut child = spawn(Command::new("sleep").arg("1000")).unwrap();
            println!("started {}", child.id());
            child.wait().unwrap();
            return;
        }
        let mut inner = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("spawn::tests::programs_end_with_a_test_that_is_killed")
            .env(INNER, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(inner.stdout.take().unwrap()).lines();
        let sleeps = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("started ")?.1.to_owned()))
            .unwrap();
        let comm = Path::new("/proc").join(sleeps).join("comm");
        let runs = || fs::read_to_string(&comm).is_ok_and(|comm| comm == "sleep\n");
        assert!(runs());
        inner.kill().unwrap();
        inner.wait().unwrap();
        let ended = (0..1000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            !runs()
        });
        assert!(ended);
    }
}
