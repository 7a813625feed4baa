//! The text exposition format, written directly.
//!
//! The client library's representation takes two allocations per label of every sample,
//! and its encoder escapes every label of every line again; with a thousand processes that
//! is most of a scrape. Here the labels of a process are escaped once per process. A test compares
//! the two.
//!
//! The remaining cost is copying and memory: the first access to a new page costs several times as
//! much as writing it. So buffers are reused by the next scrape, and are not concatenated: each
//! family is a piece of the response.

use std::sync::{Arc, Mutex};

use observer_common::{BUCKETS, Histogram};

use super::{
    family::{Family, METRICS},
    sink::{Extra, Number, Sink, seconds},
};
use crate::{
    sync::lock,
    table::{Labels, escape_into},
};

/// Buffers of finished scrapes, by family, for the next one.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Vec<String>>);

/// A part of the exposition: a family with all its samples. Gives its memory back when it
/// is dropped.
#[derive(Debug)]
pub struct Piece {
    text: String,
    family: usize,
    spare: Arc<Spare>,
}

impl Piece {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let Self {
            text,
            family,
            spare,
        } = self;
        let mut text = std::mem::take(text);
        // An exceptionally large scrape does not keep its memory.
        if text.capacity() / 4 > text.len() {
            text.shrink_to(text.len() * 2);
        }
        text.clear();
        let mut spare = lock(&spare.0);
        if spare.len() <= *family {
            spare.resize_with(METRICS.len(), String::new);
        }
        // Two scrapes at a time leave two buffers, of which one is enough.
        if spare[*family].capacity() < text.capacity() {
            spare[*family] = text;
        }
    }
}

/// Collects text, one buffer per family because samples come process by process.
pub struct TextSink {
    families: Vec<String>,
    /// By family, what follows the process's labels in each line of a histogram.
    bounds: Vec<Option<Box<[String; BUCKETS]>>>,
    /// The labels that the lines of a histogram have in common.
    common: String,
    spare: Arc<Spare>,
}

impl TextSink {
    /// Writes into buffers from `spare`.
    pub fn new(spare: Arc<Spare>) -> Self {
        let mut families = std::mem::take(&mut *lock(&spare.0));
        families.resize_with(METRICS.len(), String::new);
        Self {
            families,
            bounds: METRICS.iter().map(|_| None).collect(),
            common: String::new(),
            spare,
        }
    }

    /// The families that have samples.
    pub fn finish(self) -> Vec<Piece> {
        let Self {
            families,
            bounds: _,
            common: _,
            spare,
        } = self;
        families
            .into_iter()
            .enumerate()
            .map(|(family, text)| Piece {
                text,
                family,
                spare: Arc::clone(&spare),
            })
            .filter(|piece| !piece.text.is_empty())
            .collect()
    }
}

/// The text of `family`, which begins with HELP and TYPE.
fn begun(families: &mut [String], family: Family) -> &mut String {
    let text = &mut families[family.index()];
    if text.is_empty() {
        let metric = family.metric();
        // A help text escapes no quotes, and ours has no backslash or newline.
        for part in ["# HELP ", metric.name, " ", metric.help, "\n# TYPE "] {
            text.push_str(part);
        }
        for part in [metric.name, " ", metric.kind.name(), "\n"] {
            text.push_str(part);
        }
    }
    text
}

fn push_label(text: &mut String, before: char, name: &str, value: &str) {
    text.push(before);
    text.push_str(name);
    text.push_str("=\"");
    escape_into(value, text);
    text.push('"');
}

fn push_integer(text: &mut String, value: u64) {
    text.push_str(itoa::Buffer::new().format(value));
}

fn push_number(text: &mut String, value: Number) {
    match value {
        Number::Integer(value) => push_integer(text, value),
        Number::Float(value) => text.push_str(&value.to_string()),
    }
    text.push('\n');
}

/// Nanoseconds as seconds, in full: a float's shortest decimal takes longer to find.
fn push_seconds(text: &mut String, nanoseconds: u64) {
    const SECOND: u64 = 1_000_000_000;
    push_integer(text, nanoseconds / SECOND);
    let fraction = nanoseconds % SECOND;
    if fraction != 0 {
        // A leading 1 keeps the zeros behind the point.
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(SECOND + fraction);
        text.push('.');
        text.push_str(digits[1..].trim_end_matches('0'));
    }
}

impl Sink for TextSink {
    fn sample(
        &mut self,
        family: Family,
        process: Option<&Labels>,
        extra: Extra<'_>,
        value: Number,
    ) {
        let text = begun(&mut self.families, family);
        text.push_str(family.metric().name);
        let mut separator = '{';
        if let Some(process) = process {
            text.push(separator);
            text.push_str(process.text());
            separator = ',';
        }
        for (name, value) in extra {
            push_label(text, separator, name, value);
            separator = ',';
        }
        text.push_str(if separator == ',' { "} " } else { " " });
        push_number(text, value);
    }

    fn histogram(
        &mut self,
        family: Family,
        process: &Labels,
        extra: Extra<'_>,
        bounds: &'static [u64; BUCKETS - 1],
        histogram: &Histogram,
    ) {
        let Self {
            families,
            bounds: known,
            common,
            spare: _,
        } = self;
        common.clear();
        common.push_str(process.text());
        for (name, value) in extra {
            push_label(common, ',', name, value);
        }
        let bounds = known[family.index()].get_or_insert_with(|| {
            Box::new(std::array::from_fn(|bucket| {
                let bound = bounds.get(bucket);
                let bound = bound.map_or("+Inf".to_owned(), |ns| seconds(*ns).to_string());
                format!(",le=\"{bound}\"}} ")
            }))
        });
        let text = begun(families, family);
        let name = family.metric().name;
        let mut count = 0;
        for (bound, observations) in bounds.iter().zip(&histogram.buckets) {
            count += observations;
            for part in [name, "_bucket{", common, bound] {
                text.push_str(part);
            }
            push_integer(text, count);
            text.push('\n');
        }
        for part in [name, "_sum{", common, "} "] {
            text.push_str(part);
        }
        push_seconds(text, histogram.sum_ns);
        for part in ["\n", name, "_count{", common, "} "] {
            text.push_str(part);
        }
        push_integer(text, count);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_written_in_full() {
        for (nanoseconds, expected) in [
            (0, "0"),
            (1, "0.000000001"),
            (70_250_000_000, "70.25"),
            (1_000_000_000, "1"),
            (10_000_000_010, "10.00000001"),
        ] {
            let mut text = String::new();
            push_seconds(&mut text, nanoseconds);
            assert_eq!(text, expected);
            assert_eq!(text.parse(), Ok(seconds(nanoseconds)));
        }
    }

    #[test]
    fn memory_is_used_again_and_not_hoarded() {
        let spare = Arc::new(Spare::default());
        let scrape = |samples: u64| {
            let mut sink = TextSink::new(Arc::clone(&spare));
            for value in 0..samples {
                sink.sample(Family::UnitInfo, None, &[], Number::Integer(value));
            }
            let pieces = sink.finish();
            assert_eq!(pieces.len(), 1, "families without samples are left out");
            let text = pieces[0].text();
            (text.as_ptr() as usize, text.len())
        };
        let capacity = || lock(&spare.0)[Family::UnitInfo.index()].capacity();
        let large = scrape(10_000);
        assert!(capacity() >= large.1);
        assert_eq!(scrape(10_000), large, "the same memory, the same text");
        scrape(1);
        assert!(capacity() < large.1 / 10);
    }
}
