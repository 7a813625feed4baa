//! The results of a benchmark, as they are printed and written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::{Deserialize, Serialize};

use super::{
    check::Costs, measure::Run, proc::Memory, statistics::Spread, subject::Subject, tls::Handshakes,
};

/// Everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    pub machine: BTreeMap<String, String>,
    /// Per run.
    pub connections: u64,
    pub live_connections: u64,
    pub repetitions: usize,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub subjects: Vec<Figures>,
    /// The observer's cost relative to no-op programs.
    #[serde(skip_serializing_if = "Costs::is_empty", default)]
    pub event_cost: Costs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paced: Option<Paced>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub growth: Vec<Point>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tls: Option<Handshakes>,
}

/// Of one subject.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub name: String,
    pub connections_per_second: Option<Spread>,
    /// As a fraction of the throughput with nothing attached.
    pub left_percent: Option<Spread>,
    /// Kernel time per run of its programs.
    pub nanoseconds_per_event: Option<Spread>,
    /// Kernel time of all its programs.
    pub nanoseconds_per_connection: Option<Spread>,
    /// CPU time of the process at full load, in percent of one CPU.
    pub cpu_percent: Option<Spread>,
    pub memory: Memory,
    pub records_lost: u64,
    pub events_lost: u64,
    pub wrong: Vec<String>,
    /// By hook or program.
    pub programs: BTreeMap<String, Program>,
}

/// Of one program.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Program {
    pub runs_per_connection: f64,
    pub nanoseconds_per_run: Spread,
}

/// The observer during a steady load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Paced {
    pub connections_per_second: f64,
    /// Of one CPU.
    pub cpu_percent: Spread,
}

/// The observer with many connections or processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    pub live_connections: u64,
    pub processes: u64,
    /// Names that the processes have.
    #[serde(default)]
    pub names: u64,
    pub nanoseconds_per_event: f64,
    /// Relative to no-op programs during the same load.
    pub event_cost: f64,
    /// From connecting to the last byte.
    pub scrape_seconds: f64,
    /// As the observer reports it: without sending.
    pub collect_seconds: f64,
    pub scrape_bytes: u64,
    pub memory: Memory,
    /// CPU time of the observer's jobs while nothing happens, by job, in percent of one CPU.
    #[serde(default)]
    pub job_percent: BTreeMap<String, f64>,
    /// Between the last two walks over connections, which are the job `ports`.
    #[serde(default)]
    pub walk_interval_seconds: f64,
    /// Goals that were missed.
    #[serde(default)]
    pub over: Vec<String>,
    pub wrong: Vec<String>,
}

/// The runs of one subject, in the order of the repetitions.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    pub plain: Vec<Run>,
    pub measured: Vec<Run>,
}

impl Figures {
    pub fn new(subject: Subject, runs: &Runs, nothing: Option<&Runs>) -> Self {
        let Runs { plain, measured } = runs;
        let rates =
            |runs: &[Run]| -> Vec<f64> { runs.iter().map(|run| run.made.per_second()).collect() };
        let attached = subject != Subject::Nothing;
        let has_programs = |run: &&Run| !run.programs.is_empty();
        let all = plain.iter().chain(measured);
        Self {
            name: subject.name().to_owned(),
            connections_per_second: Spread::of(rates(plain)),
            left_percent: nothing
                .filter(|_| attached)
                .and_then(|nothing| Spread::of_ratios(&rates(plain), &rates(&nothing.plain)))
                .map(|ratio| ratio.scaled(100.0)),
            nanoseconds_per_event: Spread::of(
                measured
                    .iter()
                    .filter(has_programs)
                    .map(|run| run.all().each()),
            ),
            nanoseconds_per_connection: Spread::of(
                measured
                    .iter()
                    .filter(has_programs)
                    .map(Run::per_connection),
            ),
            cpu_percent: attached
                .then(|| {
                    Spread::of(
                        plain
                            .iter()
                            .map(|run| 100.0 * run.cpu_seconds / run.made.seconds),
                    )
                })
                .flatten(),
            memory: plain.last().map(|run| run.memory).unwrap_or_default(),
            records_lost: all.clone().map(|run| run.records_lost).sum(),
            events_lost: all.clone().map(|run| run.events_lost).sum(),
            wrong: all.flat_map(|run| run.wrong.clone()).collect(),
            programs: programs(measured),
        }
    }
}

fn programs(runs: &[Run]) -> BTreeMap<String, Program> {
    let mut figures: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for run in runs {
        for (name, program) in &run.programs {
            let share = program.runs as f64 / run.made.connections() as f64;
            // Programs of other tools are known by ids, which no two runs share.
            let name = if name.starts_with("program ") {
                "all programs"
            } else {
                name
            };
            figures
                .entry(name)
                .or_default()
                .push((share, program.each()));
        }
    }
    figures
        .into_iter()
        .filter_map(|(name, figures)| {
            let program = Program {
                runs_per_connection: Spread::of(figures.iter().map(|(share, _)| *share))?.median,
                nanoseconds_per_run: Spread::of(figures.iter().map(|(_, each)| *each))?,
            };
            Some((name.to_owned(), program))
        })
        .collect()
}

fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| spread.to_string())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

impl Results {
    pub fn figures(&self, subject: Subject) -> Option<&Figures> {
        self.subjects
            .iter()
            .find(|figures| figures.name == subject.name())
    }

    /// The tables, in Markdown.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            let _ = writeln!(text, "{name}: {value}");
        }
        if !self.subjects.is_empty() {
            let _ = writeln!(
                text,
                "{} connections a run, {} more stand meanwhile; {} repetitions: median (lowest-highest)",
                self.connections, self.live_connections, self.repetitions
            );
            self.write_subjects(&mut text);
            self.write_programs(&mut text);
        }
        self.write_cost(&mut text);
        if let Some(Paced {
            connections_per_second,
            cpu_percent,
        }) = self.paced
        {
            let _ = writeln!(
                text,
                "\nobserver at {connections_per_second:.0} connections per second: {cpu_percent} % of a CPU"
            );
        }
        self.write_growth(&mut text);
        self.write_handshakes(&mut text);
        let wrong = |wrong: &[String], text: &mut String| {
            for wrong in wrong {
                let _ = writeln!(text, "WRONG: {wrong}");
            }
        };
        for figures in &self.subjects {
            wrong(&figures.wrong, &mut text);
        }
        for point in &self.growth {
            wrong(&point.wrong, &mut text);
            for over in &point.over {
                let _ = writeln!(text, "OVER: {over}");
            }
        }
        if let Some(tls) = &self.tls {
            wrong(&tls.wrong, &mut text);
        }
        text
    }

    fn write_subjects(&self, text: &mut String) {
        text.push_str(
            "\n| subject | connections/s | left, % | ns per event | ns per connection | \
             CPU of the tool, % | memory, MiB | records lost | events lost | counts wrong |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for figures in &self.subjects {
            let is_observer = figures.name == Subject::Observer.name();
            let count = |count: u64| {
                if is_observer {
                    count.to_string()
                } else {
                    "-".to_owned()
                }
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {:.1} | {} | {} | {} |",
                figures.name,
                cell(figures.connections_per_second),
                cell(figures.left_percent),
                cell(figures.nanoseconds_per_event),
                cell(figures.nanoseconds_per_connection),
                cell(figures.cpu_percent),
                mebibytes(figures.memory.total()),
                count(figures.records_lost),
                count(figures.events_lost),
                count(figures.wrong.len() as u64),
            );
        }
    }

    fn write_programs(&self, text: &mut String) {
        let of = |subject| self.figures(subject).map(|figures| &figures.programs);
        let Some(observer) = of(Subject::Observer).filter(|programs| !programs.is_empty()) else {
            return;
        };
        text.push_str(
            "\n| hook | runs per connection | observer, ns per run | minimal | minimal-storage | noop |\n|---|---|---|---|---|---|\n",
        );
        for (hook, program) in observer {
            let other = |subject| {
                let programs = of(subject).and_then(|programs| programs.get(hook));
                cell(programs.map(|program| program.nanoseconds_per_run))
            };
            let _ = writeln!(
                text,
                "| {hook} | {:.2} | {} | {} | {} | {} |",
                program.runs_per_connection,
                program.nanoseconds_per_run,
                other(Subject::Minimal),
                other(Subject::MinimalStorage),
                other(Subject::Noop),
            );
        }
    }

    fn write_cost(&self, text: &mut String) {
        if self.event_cost.is_empty() {
            return;
        }
        text.push_str("\n| hook | cost relative to no-op |\n|---|---|\n");
        for (hook, cost) in &self.event_cost {
            let _ = writeln!(text, "| {hook} | {cost} |");
        }
    }

    fn write_handshakes(&self, text: &mut String) {
        let Some(Handshakes {
            connections,
            beside,
            programs_nanoseconds,
            wrong,
        }) = &self.tls
        else {
            return;
        };
        let _ = write!(
            text,
            "\nTLS handshakes: {connections} connections a run, {} counts wrong, programs of the probes {} ns per \
             connection\n\n\
             | beside | connections/s | left, % | CPU time of server and client, µs per connection | more than without \
             probes, µs |\n|---|---|---|---|---|\n",
            wrong.len(),
            cell(*programs_nanoseconds)
        );
        for beside in beside {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                beside.name,
                beside.per_second,
                cell(beside.left_percent),
                beside.microseconds,
                cell(beside.more_microseconds),
            );
        }
    }

    fn write_growth(&self, text: &mut String) {
        if self.growth.is_empty() {
            return;
        }
        text.push_str(
            "\n| live connections | processes | names | ns per event | relative to no-op | scrape, ms | \
             collecting it, ms | scrape, KiB | resident, MiB | maps, MiB |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for point in &self.growth {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {} | {:.1} | {:.1} |",
                point.live_connections,
                point.processes,
                point.names,
                point.nanoseconds_per_event,
                point.event_cost,
                point.scrape_seconds * 1e3,
                point.collect_seconds * 1e3,
                point.scrape_bytes / 1024,
                mebibytes(point.memory.resident),
                mebibytes(point.memory.maps),
            );
        }
        self.write_jobs(text);
    }

    fn write_jobs(&self, text: &mut String) {
        let percent = |point: &Point, job: &str| point.job_percent.get(job).copied();
        let jobs = self.growth.iter().flat_map(|it| it.job_percent.keys());
        let jobs: BTreeSet<_> = jobs.collect();
        text.push_str("\nCPU time of the observer's jobs meanwhile, in percent of one CPU:\n\n");
        let mut line = |first: [String; 3], cells: &mut dyn Iterator<Item = String>| {
            let cells: Vec<_> = first.into_iter().chain(cells).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        let columns = ["live connections", "processes", "seconds between walks"].map(str::to_owned);
        line(columns, &mut jobs.iter().map(|job| (*job).clone()));
        let rule = || "---".to_owned();
        line([rule(), rule(), rule()], &mut jobs.iter().map(|_| rule()));
        for point in &self.growth {
            let of = [
                point.live_connections.to_string(),
                point.processes.to_string(),
                format!("{:.1}", point.walk_interval_seconds),
            ];
            let cell = |job: &&String| {
                percent(point, job).map_or_else(String::new, |it| format!("{it:.3}"))
            };
            line(of, &mut jobs.iter().map(cell));
        }
    }
}
