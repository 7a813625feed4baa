//! A parsed exposition: Prometheus' text format.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A parsed exposition.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub text: String,
    pub samples: Vec<Sample>,
}

impl Metrics {
    pub fn parse(text: &str) -> Result<Self> {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| parse_sample(line).with_context(|| format!("cannot read {line:?}")))
            .collect::<Result<_>>()?;
        Ok(Self {
            text: text.to_owned(),
            samples,
        })
    }

    /// The same, with an error for a duplicate family, a duplicate sample or one outside its family, and an unknown comment.
    pub fn parse_strictly(text: &str) -> Result<Self> {
        let mut families = BTreeSet::new();
        let mut family = "";
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let words: Vec<_> = comment.splitn(3, ' ').collect();
                match words[..] {
                    ["HELP", name, help] if !help.is_empty() => {
                        ensure!(families.insert(name), "{name} comes twice");
                        family = name;
                    }
                    ["TYPE", name, _] if name == family => {}
                    _ => bail!("cannot read {line:?}"),
                }
            } else {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                let suffix = name.strip_prefix(family);
                ensure!(
                    matches!(suffix, Some("" | "_bucket" | "_sum" | "_count")),
                    "{name} is outside its family"
                );
            }
        }
        let metrics = Self::parse(text)?;
        let mut known = BTreeSet::new();
        for Sample { name, labels, .. } in &metrics.samples {
            ensure!(
                known.insert((name, labels)),
                "{name} {labels:?} comes twice"
            );
        }
        Ok(metrics)
    }

    /// The samples that are not zero, without buckets of histograms: short enough for messages.
    pub fn shown(&self) -> String {
        let shown = self.text.lines().filter(|line| {
            let zero = line.ends_with(" 0");
            !line.starts_with('#') && !line.contains("_bucket{") && !zero
        });
        shown.collect::<Vec<_>>().join("\n")
    }

    /// Samples of `name` that have all of `labels`.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        })
    }

    /// Sum of [`select`](Self::select); 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // `fold`, because the empty sum of floats is -0.
        self.select(name, labels)
            .fold(0.0, |sum, sample| sum + sample.value)
    }

    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.select(name, labels).next().is_some()
    }
}

fn parse_sample(line: &str) -> Result<Sample> {
    let (name, labels, value) = match line.find('{') {
        Some(open) => {
            let (labels, length) = parse_labels(&line[open + 1..])?;
            (&line[..open], labels, &line[open + 1 + length..])
        }
        None => {
            let (name, value) = line.split_once(' ').context("no value")?;
            (name, BTreeMap::new(), value)
        }
    };
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: value.trim().parse().context("no number")?,
    })
}

/// The labels in front of a closing brace, and how many bytes they and the brace take.
fn parse_labels(text: &str) -> Result<(BTreeMap<String, String>, usize)> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, text.len() - after.len()));
        }
        let (key, after) = rest.split_once("=\"").context("no closing brace")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().context("no closing quote")? {
                (_, '\\') => match characters.next().context("half an escape")?.1 {
                    'n' => value.push('\n'),
                    other @ ('\\' | '"') => value.push(other),
                    other => bail!("escape {other}"),
                },
                (at, '"') => break at,
                (_, other) => value.push(other),
            }
        };
        let duplicate = labels.insert(key.to_owned(), value);
        ensure!(duplicate.is_none(), "label {key} twice");
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_labels_with_escapes_and_values() {
        let text = "# TYPE a counter\n\
                    a{comm=\"x\\\"}\\n\\\\\",unit=\"\"} 3\n\
                    a{comm=\"y\",unit=\"\"} 4\nb 0.5\nc{le=\"+Inf\"} +Inf\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.samples[0].labels["comm"], "x\"}\n\\");
        assert_eq!(metrics.sum("a", &[]), 7.0);
        assert_eq!(metrics.sum("a", &[("comm", "y"), ("unit", "")]), 4.0);
        assert_eq!(metrics.sum("b", &[]), 0.5);
        assert_eq!(metrics.sum("c", &[]), f64::INFINITY);
        assert!(!metrics.has("a", &[("comm", "z")]));
    }

    #[test]
    fn what_is_no_sample_is_an_error() {
        for text in [
            "a",
            "a x",
            "a{b=\"c\" 1",
            "a{b=\"c} 1",
            "a{b=\"1\",b=\"2\"} 1",
            "a{b=\"\\t\"} 1",
        ] {
            assert!(Metrics::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn strictness_is_about_families() {
        let right = "# HELP a x\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n";
        assert_eq!(Metrics::parse_strictly(right).unwrap().samples.len(), 3);
        for wrong in [
            "b 1\n",
            "a_sum 1\n",
            "# HELP a x\n",
            "# TYPE b counter\n",
            "# HELP b\n",
            "# EOF x y\n",
        ] {
            let text = format!("{right}{wrong}");
            assert!(Metrics::parse_strictly(&text).is_err(), "{text}");
        }
    }
}
