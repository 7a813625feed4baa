//! Names of kernels on the command line, and their packages.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// The build of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// For virtual machines: the smallest download.
    Cloud,
    /// `PREEMPT_RT`
    Rt,
    /// With drivers for everything.
    Full,
}

impl Flavour {
    const ALL: [Self; 3] = [Self::Cloud, Self::Rt, Self::Full];

    /// What follows the version in a kernel's release.
    fn suffix(self) -> &'static str {
        match self {
            Self::Cloud => "-cloud-amd64",
            Self::Rt => "-rt-amd64",
            Self::Full => "-amd64",
        }
    }
}

/// A kernel on the command line: `6.1`, `6.1-rt`, `6.1-full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    pub series: [u32; 2],
    pub flavour: Flavour,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (series, flavour) = match text.split_once('-') {
            None => (text, Flavour::Cloud),
            Some((series, "rt")) => (series, Flavour::Rt),
            Some((series, "full")) => (series, Flavour::Full),
            Some((_, other)) => return Err(format!("{other:?} is neither rt nor full")),
        };
        match numbers(series).as_deref() {
            Some(&[major, minor]) => Ok(Self {
                series: [major, minor],
                flavour,
            }),
            _ => Err("a kernel is named like 6.12, 6.12-rt or 6.12-full".to_owned()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            series: [major, minor],
            flavour,
        } = self;
        let flavour = match flavour {
            Flavour::Cloud => "",
            Flavour::Rt => "-rt",
            Flavour::Full => "-full",
        };
        write!(f, "{major}.{minor}{flavour}")
    }
}

/// From this series on, the modules are a separate package, which the mirror removes before the image.
const MODULES_APART: [u32; 2] = [6, 19];

/// The newest release of every series and flavour among the names of packages with images;
/// `modules` are those of packages with modules.
pub fn available(images: &[String], modules: &[String]) -> BTreeMap<Wanted, String> {
    let mut newest: BTreeMap<Wanted, (Vec<u32>, String)> = BTreeMap::new();
    for package in images {
        let Some(release) = package.strip_prefix("linux-image-") else {
            continue;
        };
        let Some((wanted, version)) = parse_release(release) else {
            continue;
        };
        let whole = |name: &String| name.strip_prefix("linux-modules-") == Some(release);
        if wanted.series >= MODULES_APART && !modules.iter().any(whole) {
            continue;
        }
        let candidate = (version, release.to_owned());
        let best = newest.entry(wanted).or_insert_with(|| candidate.clone());
        if *best < candidate {
            *best = candidate;
        }
    }
    newest
        .into_iter()
        .map(|(wanted, (_, release))| (wanted, release))
        .collect()
}

/// Series, flavour and version of a release such as `5.10.0-46-cloud-amd64`. Rebuilds for older
/// distributions (`6.1.0-0.deb11.25-amd64`) are ignored, because the original packages exist.
fn parse_release(release: &str) -> Option<(Wanted, Vec<u32>)> {
    Flavour::ALL.into_iter().find_map(|flavour| {
        let version = release.strip_suffix(flavour.suffix())?;
        // `6.18.15+deb13`: the suffix of the distribution does not affect the order.
        let (version, _) = version.split_once('+').unwrap_or((version, ""));
        let (point, abi) = version.split_once('-').unwrap_or((version, "0"));
        let mut version = numbers(point)?;
        version.push(abi.parse().ok()?);
        let series = [*version.first()?, *version.get(1)?];
        Some((Wanted { series, flavour }, version))
    })
}

fn numbers(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

/// Selects a kernel for `wanted`: the series itself, else the nearest newer one, else the newest,
/// because mirrors remove old series.
pub fn nearest(available: &BTreeMap<Wanted, String>, wanted: Wanted) -> Option<(Wanted, &str)> {
    let same = || {
        available
            .iter()
            .filter(|(kernel, _)| kernel.flavour == wanted.flavour)
    };
    same()
        .find(|(kernel, _)| kernel.series >= wanted.series)
        .or_else(|| same().next_back())
        .map(|(kernel, release)| (*kernel, release.as_str()))
}

#[cfg(test)]
mod tests {
    use super::{super::suite, *};

    const IMAGES: [&str; 13] = [
        "linux-image-5.10.0-46-cloud-amd64",
        "linux-image-6.1.0-0.deb11.25-cloud-amd64",
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.1.0-56-rt-amd64",
        "linux-image-6.1.0-56-amd64",
        "linux-image-6.1.0-56-amd64-dbg",
        "linux-image-6.18.15+deb13-cloud-amd64",
        "linux-image-6.18.9+deb13-cloud-amd64",
        "linux-image-7.0.9+deb13-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-image-7.3.5+deb13-cloud-amd64",
        "linux-image-cloud-amd64",
    ];
    const MODULES: [&str; 2] = [
        "linux-modules-7.3.4+deb13-cloud-amd64",
        "linux-modules-7.3.5+deb13-rt-amd64",
    ];

    fn on_the_mirror() -> BTreeMap<Wanted, String> {
        available(&IMAGES.map(str::to_owned), &MODULES.map(str::to_owned))
    }

    fn wanted(name: &str) -> Wanted {
        name.parse().unwrap()
    }

    #[test]
    fn the_newest_release_of_each_series_is_taken() {
        let available = on_the_mirror();
        let of = |name| available.get(&wanted(name)).map(String::as_str);
        assert_eq!(of("5.10"), Some("5.10.0-46-cloud-amd64"));
        assert_eq!(of("6.1"), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(of("6.1-rt"), Some("6.1.0-56-rt-amd64"));
        assert_eq!(of("6.1-full"), Some("6.1.0-56-amd64"));
        assert_eq!(of("6.18"), Some("6.18.15+deb13-cloud-amd64"));
        // An image without modules cannot be used.
        assert_eq!(of("7.0"), None);
        assert_eq!(of("7.3"), Some("7.3.4+deb13-cloud-amd64"));
        assert_eq!(available.len(), 6);
    }

    #[test]
    fn a_series_that_is_gone_gives_the_next() {
        let available = on_the_mirror();
        let of = |name| nearest(&available, wanted(name)).unwrap().0.to_string();
        assert_eq!(of("6.1"), "6.1");
        assert_eq!(of("6.12"), "6.18");
        assert_eq!(of("9.0"), "7.3");
        assert_eq!(of("7.3-rt"), "6.1-rt");
        assert_eq!(nearest(&BTreeMap::new(), wanted("6.1")), None);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in suite::ALL_KERNELS
            .into_iter()
            .chain(["6.1-rt", "6.12-full"])
        {
            assert_eq!(wanted(name).to_string(), name);
        }
        for name in ["", "6", "6.1.2", "6.1-", "6.1-lts", "newest", "x.y"] {
            assert!(name.parse::<Wanted>().is_err(), "{name}");
        }
    }
}
