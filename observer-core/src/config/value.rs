//! The types of settings. Each is parsed and checked by one `FromStr`, so that a flag, an environment
//! variable and a key of the file accept the same text and fail with the same message.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};
use wildmatch::WildMatch;

/// The text of a value is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

fn invalid<T>(why: impl Into<String>) -> Result<T, ValueError> {
    Err(ValueError(why.into()))
}

/// Deserializes through `FromStr`; with `INTEGERS`, from an integer too.
struct Text<T, const INTEGERS: bool> {
    expecting: &'static str,
    target: PhantomData<T>,
}

impl<T, const INTEGERS: bool> de::Visitor<'_> for Text<T, INTEGERS>
where
    T: FromStr<Err = ValueError>,
{
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        if INTEGERS {
            number.to_string().parse().map_err(E::custom)
        } else {
            Err(E::invalid_type(de::Unexpected::Signed(number), &self))
        }
    }
}

/// Implements `Deserialize` for a type by its text.
macro_rules! by_text {
    ([$($generics:tt)*] $type:ty, $integers:literal, $expecting:expr) => {
        impl<'de, $($generics)*> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Text::<Self, $integers> {
                    expecting: $expecting,
                    target: PhantomData,
                })
            }
        }
    };
}

/// An interval: `500ms`, `15s`, `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(Duration);

impl Interval {
    /// Below this, the periodic work would take all the time.
    pub const MIN: Duration = Duration::from_millis(10);
    /// Above this, the unit is probably a mistake (humantime's `M` is a month).
    pub const MAX: Duration = Duration::from_hours(24);

    /// The plain value.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Interval> for Duration {
    fn from(interval: Interval) -> Self {
        interval.get()
    }
}

impl FromStr for Interval {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let duration = parse_duration(text)?;
        if duration < Self::MIN || duration > Self::MAX {
            return invalid(format!(
                "{} is outside the range of 10ms to 24h",
                format_duration(duration)
            ));
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_duration(self.0).fmt(f)
    }
}

by_text!([] Interval, false, "a duration such as \"500ms\", \"15s\" or \"1m\"");

/// Parses a duration that must not be zero.
///
/// # Errors
///
/// When the text is no duration, has no unit, or is zero.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => invalid("a duration of zero makes no sense here"),
        Ok(duration) => Ok(duration),
        Err(error) => invalid(format!("{error} (write 500ms, 15s or 1m)")),
    }
}

/// The inverse of [`parse_duration`].
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Size of the ring buffer: a power of two and a multiple of the page size. `ringbuf_map_alloc` refuses
/// other sizes with EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingBytes(u32);

impl RingBytes {
    /// The maximum. It is kernel memory, allocated at the start.
    pub const MAX: u32 = 1 << 30;

    /// One mebibyte: about 7,000 records.
    pub const DEFAULT: Self = Self(1 << 20);

    /// The plain value.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    pub(super) fn checked(bytes: u64, page: u32) -> Result<Self, ValueError> {
        let min = page.max(4096);
        match u32::try_from(bytes) {
            Ok(bytes) if bytes < min => {
                invalid(format!("{bytes} bytes is less than the minimum of {min}"))
            }
            Ok(bytes) if bytes > Self::MAX => invalid("the maximum is 1GiB"),
            Ok(bytes) if !bytes.is_power_of_two() => {
                let above = bytes.next_power_of_two();
                invalid(format!(
                    "{bytes} bytes is not a power of two; the nearest are {} and {}",
                    format_size((above / 2).into()),
                    format_size(above.into()),
                ))
            }
            // A power of two that is no smaller than a page is a multiple of it.
            Ok(bytes) => Ok(Self(bytes)),
            Err(_) => invalid("the maximum is 1GiB"),
        }
    }
}

impl Default for RingBytes {
    /// [`Self::DEFAULT`].
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl From<RingBytes> for u32 {
    fn from(bytes: RingBytes) -> Self {
        bytes.get()
    }
}

impl FromStr for RingBytes {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::checked(parse_size(text)?, page_size())
    }
}

impl fmt::Display for RingBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_size(self.0.into()).fmt(f)
    }
}

by_text!([] RingBytes, true, "a size such as \"64KiB\", \"1MiB\" or 1048576");

fn page_size() -> u32 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u32::try_from(bytes).ok())
        .unwrap_or(4096)
}

const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// Parses a size in bytes: a number, or a number with `B`, `KiB`, `MiB` or `GiB`. `KB` and
/// `M` are rejected as ambiguous.
///
/// # Errors
///
/// When the text is no size, or has more than 64 bits.
pub fn parse_size(text: &str) -> Result<u64, ValueError> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim();
    let shift = match (unit, UNITS.iter().find(|(name, _)| *name == unit)) {
        ("" | "B", _) => 0,
        (_, Some((_, shift))) => *shift,
        _ => return invalid(format!("unknown unit {unit:?}; use B, KiB, MiB or GiB")),
    };
    let Ok(number) = digits.parse::<u64>() else {
        return invalid("not a size; write 4096, 64KiB or 1MiB");
    };
    match number.checked_mul(1 << shift) {
        Some(bytes) => Ok(bytes),
        None => invalid("the number is too large"),
    }
}

/// The shortest text that [`parse_size`] reads back as `bytes`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    for (name, shift) in UNITS {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{name}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A number between two bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Bounded<MIN, MAX> {
    /// The highest value.
    pub const MAX: u32 = MAX;

    /// The plain value.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> From<Bounded<MIN, MAX>> for u32 {
    fn from(number: Bounded<MIN, MAX>) -> Self {
        number.get()
    }
}

impl<const MIN: u32, const MAX: u32> FromStr for Bounded<MIN, MAX> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.trim().parse::<i128>() {
            Ok(number) => match u32::try_from(number) {
                Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
                _ => invalid(format!("{number} is outside the range of {MIN} to {MAX}")),
            },
            Err(_) => invalid(format!("not a whole number between {MIN} and {MAX}")),
        }
    }
}

impl<const MIN: u32, const MAX: u32> fmt::Display for Bounded<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

by_text!([const MIN: u32, const MAX: u32] Bounded<MIN, MAX>, true, "a whole number");

/// A share of one CPU: `0.2%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuShare {
    percent: f64,
}

impl CpuShare {
    /// Below this, a walk over a few thousand sockets would be followed by minutes of pause.
    const MIN: f64 = 0.01;
    /// Ten times as much while ports run out.
    const MAX: f64 = 5.0;

    /// As a fraction of one.
    #[must_use]
    pub fn fraction(self) -> f64 {
        self.percent / 100.0
    }
}

impl From<CpuShare> for f64 {
    fn from(share: CpuShare) -> Self {
        share.fraction()
    }
}

impl FromStr for CpuShare {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number = text.trim().strip_suffix('%').map(str::trim_end);
        let Some(Ok(percent)) = number.map(str::parse::<f64>) else {
            return invalid("not a share of a CPU; write 0.2% or 1%");
        };
        if !(Self::MIN..=Self::MAX).contains(&percent) {
            return invalid(format!(
                "{percent}% is outside the range of {}% to {}%",
                Self::MIN,
                Self::MAX
            ));
        }
        Ok(Self { percent })
    }
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.percent)
    }
}

by_text!([] CpuShare, false, "a share of a CPU such as \"0.2%\"");

/// A pattern in which `*` matches any text and `?` any one character. It has to match the whole name,
/// and is case sensitive.
#[derive(Clone, Debug, PartialEq)]
pub struct Glob(WildMatch);

impl Glob {
    /// Whether the pattern matches the whole of `name`.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }
}

impl FromStr for Glob {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return invalid("an empty pattern would match nothing");
        }
        Ok(Self(WildMatch::new(text)))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

by_text!([] Glob, false, "a pattern such as \"nginx*\"");

/// The log filter: a level, or tracing's filter directives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

    /// The directives, known to be valid.
    #[must_use]
    pub fn directives(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    /// `info`.
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // tracing-subscriber 0.3.23 panics on some texts that are not ASCII: it slices
        // one byte behind a character of several (`Directive::parse`).
        if !text.is_ascii() {
            return invalid("a log filter is plain ASCII");
        }
        // `EnvFilter` interprets a word that is no level as a target with the level trace, so a
        // misspelt "inof" would be accepted.
        let is_level = |word: &str| Self::LEVELS.iter().any(|l| l.eq_ignore_ascii_case(word));
        let bare = |word: &&str| !word.contains('=');
        if !text.contains('[')
            && let Some(word) = text
                .split(',')
                .map(str::trim)
                .filter(bare)
                .find(|w| !is_level(w))
        {
            return invalid(format!(
                "{word:?} is not one of {}, nor a directive such as observer::kernel=debug",
                Self::LEVELS.join(", "),
            ));
        }
        match tracing_subscriber::EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => invalid(format!("not a log filter: {error}")),
        }
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

by_text!([] LogFilter, false, "a log level such as \"info\"");

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}
