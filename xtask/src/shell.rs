//! Runs other programs, and reports which one failed and what can be done.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    iter,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{host, interrupt, toolchain};

/// Cargo sets CARGO for its child processes; without it, the cargo on PATH is used.
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(host::root());
    command
}

/// A command that runs as root, with sudo if necessary.
pub fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if host::is_root() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new(sudo()?);
    command.arg(program);
    Ok(command)
}

pub fn sudo() -> Result<OsString> {
    let sudo = toolchain::find_program("sudo").context("this needs root, and there is no sudo")?;
    Ok(sudo.into_os_string())
}

/// Shows and runs a command. `advice` is printed when it fails.
pub fn run(command: &mut Command, advice: &str) -> Result<()> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let status = command
        .status()
        .with_context(|| format!("`{shown}` does not start\n  what you can do: {advice}"))?;
    if !status.success() {
        // "exit status: 1" or "signal: 9 (SIGKILL)".
        bail!("`{shown}` failed with {status}\n  what you can do: {advice}");
    }
    Ok(())
}

/// Runs a command that needs the network, and retries if it fails: mirrors may be inconsistent for
/// a while, and apt does not wait for the lock of its lists.
pub fn persist(command: &mut Command, advice: &str) -> Result<()> {
    persist_after(&[15, 60].map(Duration::from_secs), command, advice)
}

fn persist_after(pauses: &[Duration], command: &mut Command, advice: &str) -> Result<()> {
    for pause in pauses {
        match run(command, advice) {
            Ok(()) => return Ok(()),
            Err(error) if interrupt::seen() => return Err(error),
            Err(error) => eprintln!("note: {error:#}\nnote: trying again in {pause:?}"),
        }
        let begun = Instant::now();
        while begun.elapsed() < *pause {
            if interrupt::seen() {
                bail!("interrupted");
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
    run(command, advice)
}

/// The standard output of a command, or `None` when it does not run or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as typed in a shell, preceded by its environment variables.
pub fn show(command: &Command) -> String {
    let envs = command.get_envs().filter_map(|(name, value)| {
        Some(format!(
            "{}={}",
            name.to_string_lossy(),
            quote(&value?.to_string_lossy())
        ))
    });
    let words = iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()).into_owned());
    envs.chain(words).collect::<Vec<_>>().join(" ")
}

/// The executables in cargo's JSON messages.
pub fn executables(messages: &str) -> impl Iterator<Item = PathBuf> {
    messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    })
}

fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''")).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_is_typed() {
        let mut command = Command::new("cargo");
        command
            .args(["test", "--test", "*", "it's"])
            .env("A", "b c")
            .env_remove("B");
        assert_eq!(show(&command), r"A='b c' cargo test --test '*' 'it'\''s'");
    }

    #[test]
    fn a_failure_names_command_code_and_advice() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let error = run(&mut command, "do nothing").unwrap_err().to_string();
        assert!(
            error.contains("`sh -c 'exit 3'` failed with exit status: 3"),
            "{error}"
        );
        assert!(error.ends_with("what you can do: do nothing"), "{error}");
    }

    #[test]
    fn what_fails_once_is_tried_again() {
        let directory = std::env::temp_dir().join(format!("observer-again-{}", std::process::id()));
        let mut command = Command::new("sh");
        // It fails until the second directory can be made.
        command
            .args(["-c", r#"mkdir "$0" 2>&- && exit 1; mkdir "$0/b" 2>&-"#])
            .arg(&directory);
        persist_after(&[Duration::ZERO], &mut command, "do nothing").unwrap();
        let tries = &[Duration::ZERO; 2];
        let error = persist_after(tries, &mut command, "do nothing").unwrap_err();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn executables_are_read_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/t/release/observer"}
{"reason":"build-finished","success":true}"#;
        let found: Vec<_> = executables(messages).collect();
        assert_eq!(found, [PathBuf::from("/t/release/observer")]);
        assert_eq!(executables("").count(), 0);
    }
}
