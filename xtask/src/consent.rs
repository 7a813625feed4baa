//! Asks before anything is installed on the machine.

use std::{
    env,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, bail};

/// Set by `--yes`.
static YES: AtomicBool = AtomicBool::new(false);

pub fn set(yes: bool) {
    YES.store(yes, Ordering::Relaxed);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Install,
    Ask,
    Refuse,
}

fn decide(yes: bool, ci: Option<&str>, terminal: bool) -> Decision {
    if yes || matches!(ci, Some("true" | "1")) {
        Decision::Install
    } else if terminal {
        Decision::Ask
    } else {
        Decision::Refuse
    }
}

/// Prints what is going to be installed, and asks unless `--yes` or CI=true has answered already.
pub fn ask(items: &[String]) -> Result<()> {
    eprintln!("going to install, because it is missing here:");
    for item in items {
        eprintln!("  {item}");
    }
    let ci = env::var("CI").ok();
    let yes = YES.load(Ordering::Relaxed);
    match decide(yes, ci.as_deref(), io::stdin().is_terminal()) {
        Decision::Install => Ok(()),
        Decision::Refuse => bail!(
            "nothing was installed, because nobody can be asked: there is no terminal\n  \
             what you can do: pass --yes or set CI=true to install this, or install it by hand"
        ),
        Decision::Ask => {
            eprint!("install this? [y/N] ");
            io::stderr().flush()?;
            let mut answer = String::new();
            io::stdin().lock().read_line(&mut answer)?;
            if agrees(&answer) {
                Ok(())
            } else {
                bail!("nothing was installed")
            }
        }
    }
}

fn agrees(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_person_an_option_or_ci_decides() {
        assert_eq!(decide(true, None, false), Decision::Install);
        assert_eq!(decide(false, Some("true"), false), Decision::Install);
        assert_eq!(decide(false, Some("false"), true), Decision::Ask);
        assert_eq!(decide(false, None, true), Decision::Ask);
        assert_eq!(decide(false, None, false), Decision::Refuse);
        assert_eq!(decide(false, Some(""), false), Decision::Refuse);
    }

    #[test]
    fn silence_is_no() {
        assert!(agrees("y\n") && agrees("Yes\n"));
        assert!(!agrees("") && !agrees("\n") && !agrees("no\n") && !agrees("maybe\n"));
    }
}
