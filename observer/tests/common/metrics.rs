//! A parsed exposition.

use std::collections::{BTreeMap, BTreeSet};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A parsed exposition.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub text: String,
    pub samples: Vec<Sample>,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(parse_sample)
            .collect();
        Self {
            text: text.to_owned(),
            samples,
        }
    }

    /// The samples that are not zero, for messages: little enough to be read in a log that is
    /// cut. Buckets of histograms are left out.
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

    /// The same for one process.
    pub fn of(&self, pid: u32, name: &str, labels: &[(&str, &str)]) -> f64 {
        let pid = pid.to_string();
        let mut all = vec![("pid", pid.as_str())];
        all.extend_from_slice(labels);
        self.sum(name, &all)
    }

    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.select(name, labels).next().is_some()
    }

    /// Whether a signal is observed on this kernel; says so when it is not.
    pub fn observes(&self, signal: &str) -> bool {
        let observed = self.has("observer_signal_info", &[("signal", signal)]);
        if !observed {
            println!("skipped: {signal} is not observed on this kernel");
        }
        observed
    }

    /// Whether the kernel skipped the second program of a signal too, so that what it should
    /// have seen is missing (docs/limitations.md, Counting); says so when it did.
    pub fn skipped_twice(&self, program: &str) -> bool {
        let runs = self.sum("observer_bpf_missed_runs_total", &[("program", program)]);
        if runs > 0.0 {
            println!("left out: the kernel skipped {runs} runs of {program}");
        }
        runs > 0.0
    }

    /// The rungs that serve a signal.
    pub fn rungs(&self, signal: &str) -> BTreeSet<String> {
        let labels = [("signal", signal)];
        self.select("observer_hook_attached", &labels)
            .filter(|sample| sample.value == 1.0)
            .map(|sample| sample.labels["rung"].clone())
            .collect()
    }

    /// Whether hooks on functions serve a signal.
    pub fn by_function(&self, signal: &str) -> bool {
        let functions = ["fentry", "fexit", "kprobe", "kretprobe"];
        let rungs = self.rungs(signal);
        functions.into_iter().any(|rung| rungs.contains(rung))
    }

    /// Asserts `seen == counted + unattributed + lost` for every signal.
    pub fn assert_complete(&self) {
        for seen in self.select("observer_events_seen_total", &[]) {
            let signal = seen.labels["signal"].as_str();
            let settled = self.sum("observer_events_total", &[("signal", signal)]);
            assert_eq!(
                seen.value,
                settled,
                "events of {signal} are missing:\n{}",
                self.shown()
            );
        }
    }
}

fn parse_sample(line: &str) -> Sample {
    let (head, labels, rest) = match line.find('{') {
        Some(open) => {
            let close = closing_brace(line, open);
            (&line[..open], &line[open + 1..close], &line[close + 1..])
        }
        None => {
            let space = line.find(' ').expect("a value");
            (&line[..space], "", &line[space..])
        }
    };
    let value = match rest.trim() {
        "+Inf" => f64::INFINITY,
        text => text
            .parse()
            .unwrap_or_else(|_| panic!("no value in {line:?}")),
    };
    Sample {
        name: head.to_owned(),
        labels: parse_labels(labels),
        value,
    }
}

fn closing_brace(line: &str, open: usize) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, character) in line.char_indices().skip_while(|(at, _)| *at <= open) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return at,
            _ => {}
        }
    }
    panic!("no closing brace in {line:?}");
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().expect("a closing quote") {
                (_, '\\') => match characters.next().expect("an escape").1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (at, '"') => break at,
                (_, other) => value.push(other),
            }
        };
        let duplicate = labels.insert(key.trim_start_matches(',').to_owned(), value);
        assert!(duplicate.is_none(), "label {key} twice in {text:?}");
        rest = &after[end + 1..];
    }
    labels
}
