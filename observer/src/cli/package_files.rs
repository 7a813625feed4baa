//! `observer package-files`: files of the packages that are generated from the binary's command line and settings.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap_complete::Shell;
use observer_core::config::example;

use super::PackageFilesArgs;

/// Directory and file name of each shell's completions.
const COMPLETIONS: [(Shell, &str, &str); 3] = [
    (
        Shell::Bash,
        "usr/share/bash-completion/completions",
        "observer",
    ),
    (
        Shell::Fish,
        "usr/share/fish/vendor_completions.d",
        "observer.fish",
    ),
    (Shell::Zsh, "usr/share/zsh/vendor-completions", "_observer"),
];

/// Writes the manual pages of `command`, its completions and a configuration file.
///
/// # Errors
///
/// When a file cannot be written.
pub fn run(mut command: clap::Command, args: &PackageFilesArgs) -> anyhow::Result<ExitCode> {
    let at = |path: &str| directory(&args.directory, path);
    clap_mangen::generate_to(command.clone(), at("usr/share/man/man1")?)
        .context("cannot write manual pages")?;
    for (shell, path, name) in COMPLETIONS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "observer", &mut text);
        write(&at(path)?.join(name), &text)?;
    }
    let file = at("etc/observer")?.join("observer.toml");
    write(&file, example().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn write(file: &Path, text: &[u8]) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Makes a directory below `root`.
fn directory(root: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let directory = root.join(path);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn each_command_has_a_manual_page_and_each_shell_completions() {
        let directory = tempfile::tempdir().unwrap();
        let args = PackageFilesArgs {
            directory: directory.path().to_owned(),
        };
        run(Cli::command(), &args).unwrap();
        let text = |file: &str| fs::read_to_string(directory.path().join(file)).unwrap();
        let shown = Cli::command();
        let shown = shown.get_subcommands().filter(|it| !it.is_hide_set());
        for command in shown {
            let page = text(&format!(
                "usr/share/man/man1/observer-{}.1",
                command.get_name()
            ));
            assert!(page.contains(".SH SYNOPSIS"), "{page}");
        }
        for (_, path, name) in COMPLETIONS {
            let text = text(&format!("{path}/{name}"));
            assert!(
                text.contains("doctor") && text.contains("--listen") || text.contains("-l listen"),
                "{name}"
            );
        }
        assert_eq!(text("etc/observer/observer.toml"), example());
    }
}
