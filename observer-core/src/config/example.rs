//! A configuration file in which every setting is commented out.

use clap::{Arg, ArgAction, Args as _};

use super::Options;
use crate::detect::DESCRIBED;

const HEAD: &str = "\
# Settings of observer: `systemctl reload observer` reads them again. What is commented out has its default.
# A setting can also be a variable of the environment, OBSERVER_LISTEN for `listen`.
";

const THRESHOLDS: &str = "
# Thresholds of the detectors; docs/detectors.md has more on each. This section has to be the last.
#[thresholds]
";

/// Width of comments.
const WIDTH: usize = 100;

/// The text of a file with every setting, its help and its default.
#[must_use]
pub fn example() -> String {
    let mut text = HEAD.to_owned();
    let mut heading = None;
    for argument in Options::augment_args(clap::Command::new("example")).get_arguments() {
        if argument.get_help_heading() != heading {
            heading = argument.get_help_heading();
            let heading = heading.unwrap_or_default();
            text += &format!("\n### {heading}\n");
        }
        let key = argument.get_long().unwrap_or_default();
        let help = argument.get_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        text += &format!("\n{}#{key} = {}\n", comment(&help), value(argument, &help));
    }
    text += THRESHOLDS;
    for threshold in DESCRIBED {
        let key = threshold.name.replace('_', "-");
        let why = threshold.why.concat();
        text += &format!("\n{}#{key} = {:?}\n", comment(&why), threshold.default);
    }
    text
}

/// The default as TOML; without a default, the name of the value.
fn value(argument: &Arg, help: &str) -> String {
    if matches!(argument.get_action(), ArgAction::Append) {
        return "[]".to_owned();
    }
    let (_, default) = help.rsplit_once("[default: ").unwrap_or_default();
    let default = default.trim_end_matches(']');
    if matches!(default, "true" | "false") || default.parse::<u64>().is_ok() {
        return default.to_owned();
    }
    let names = argument.get_value_names().unwrap_or_default();
    let name = names.first().map_or("", |name| name.as_str());
    format!("{:?}", if default == "none" { name } else { default })
}

/// Lines of a comment, broken at spaces.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        if width == 0 || width + word.len() >= WIDTH {
            if width > 0 {
                lines.push('\n');
            }
            lines.push('#');
            width = 1;
        }
        lines.push(' ');
        lines += word;
        width += word.len() + 1;
    }
    lines + "\n"
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::{DEFAULT_API_SOCKET, Settings, parse};

    /// Every setting with its default.
    fn uncommented() -> String {
        let lines = example();
        let lines = lines.lines().filter_map(|line| {
            line.strip_prefix('#')
                .filter(|it| !it.starts_with([' ', '#']))
        });
        lines.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn as_it_is_the_example_changes_nothing() {
        let options = parse(&example()).unwrap();
        assert_eq!(options, Options::default());
    }

    #[test]
    fn uncommented_the_example_has_every_setting_with_its_default() {
        let settings = uncommented();
        let options = parse(&settings).unwrap_or_else(|error| panic!("{error}\n{settings}"));
        let Options {
            api_socket,
            api_group,
            user,
            web_config_file,
            thresholds,
            ..
        } = &options;
        assert!(thresholds.is_some());
        assert_eq!(
            api_socket.as_deref().unwrap(),
            Path::new(DEFAULT_API_SOCKET)
        );
        assert_eq!(api_group.as_deref(), Some("GROUP"));
        assert_eq!(user.as_deref(), Some("USER"));
        assert_eq!(web_config_file.as_deref(), Some(Path::new("FILE")));
        for argument in Options::augment_args(clap::Command::new("example")).get_arguments() {
            let key = argument.get_long().unwrap();
            assert!(settings.contains(&format!("{key} = ")), "{key}");
        }
        let expected = Settings {
            api_socket: api_socket.clone(),
            api_group: api_group.clone(),
            user: user.clone(),
            web_config_file: web_config_file.clone(),
            ..Settings::default()
        };
        assert_eq!(Settings::new(options), expected);
    }

    /// Newer versions accept the configuration of older versions. These files do not change after
    /// the release of their version: a removed setting must still be accepted, or be listed in
    /// "Upgrade" of docs/operations.md and removed here.
    #[test]
    fn documented_settings_of_every_version_are_accepted() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/configurations");
        let own = directory.join(concat!(env!("CARGO_PKG_VERSION"), ".toml"));
        if std::env::var_os("OBSERVER_UPDATE_DOCS").is_some() {
            fs::write(&own, uncommented()).unwrap();
        }
        assert!(
            fs::read_to_string(&own).is_ok_and(|text| text == uncommented()),
            "{} is out of date; `OBSERVER_UPDATE_DOCS=1 cargo test -p observer-core documented` writes it",
            own.display()
        );
        for file in fs::read_dir(directory).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}
