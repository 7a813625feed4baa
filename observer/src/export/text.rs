//! The text exposition format, written directly.
//!
//! The client library's representation takes two allocations per label of every sample,
//! and its encoder escapes every label of every line again; with a thousand processes that
//! is most of a scrape. Here the labels of a process are escaped once in its life. A test
//! holds the two against each other.

use std::fmt::Write as _;

use observer_common::{BUCKETS, Histogram};

use super::{
    family::{Family, METRICS},
    sink::{Extra, Number, Sink, seconds},
};
use crate::table::{Labels, escape_into};

/// Collects text, one buffer per family because samples come process by process.
pub struct TextSink {
    families: Vec<String>,
    /// Bounds that were written before, as label values.
    bounds: Vec<(*const u64, [String; BUCKETS - 1])>,
}

impl Default for TextSink {
    fn default() -> Self {
        Self {
            families: METRICS.iter().map(|_| String::new()).collect(),
            bounds: Vec::new(),
        }
    }
}

impl TextSink {
    /// Appends the families that have samples to `text`.
    pub fn finish(self, text: &mut String) {
        let size: usize = self.families.iter().map(|family| family.len() + 256).sum();
        text.reserve(size);
        for (samples, metric) in self.families.iter().zip(METRICS) {
            if !samples.is_empty() {
                let _ = write!(text, "# HELP {} ", metric.name);
                // A help text escapes no quotes, and ours has no backslash or newline.
                text.push_str(metric.help);
                let _ = writeln!(text, "\n# TYPE {} {}", metric.name, metric.kind.name());
                text.push_str(samples);
            }
        }
    }
}

fn push_number(text: &mut String, value: Number) {
    let _ = match value {
        Number::Integer(value) => writeln!(text, " {value}"),
        Number::Float(value) => writeln!(text, " {value}"),
    };
}

impl Sink for TextSink {
    fn sample(
        &mut self,
        family: Family,
        process: Option<&Labels>,
        extra: Extra<'_>,
        value: Number,
    ) {
        let text = &mut self.families[family as usize];
        text.push_str(family.metric().name);
        let mut separator = '{';
        if let Some(process) = process {
            text.push(separator);
            text.push_str(process.text());
            separator = ',';
        }
        for (name, value) in extra {
            text.push(separator);
            text.push_str(name);
            text.push_str("=\"");
            escape_into(value, text);
            text.push('"');
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
        push_number(text, value);
    }

    fn histogram(
        &mut self,
        family: Family,
        process: &Labels,
        bounds: &'static [u64; BUCKETS - 1],
        histogram: &Histogram,
    ) {
        let address = bounds.as_ptr();
        let known = self.bounds.iter().position(|(known, _)| *known == address);
        let known = known.unwrap_or_else(|| {
            let names = bounds.map(|bound| seconds(bound).to_string());
            self.bounds.push((address, names));
            self.bounds.len() - 1
        });
        let bounds = self.bounds[known].1.iter().map(String::as_str);

        let text = &mut self.families[family as usize];
        let name = family.metric().name;
        let mut count = 0;
        for (bound, observations) in bounds.chain(["+Inf"]).zip(&histogram.buckets) {
            count += observations;
            for part in [name, "_bucket{", process.text(), ",le=\"", bound, "\"}"] {
                text.push_str(part);
            }
            push_number(text, Number::Integer(count));
        }
        let sum = Number::Float(seconds(histogram.sum_ns));
        for (suffix, value) in [("_sum{", sum), ("_count{", Number::Integer(count))] {
            for part in [name, suffix, process.text(), "}"] {
                text.push_str(part);
            }
            push_number(text, value);
        }
    }
}
