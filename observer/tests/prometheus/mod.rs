//! A real Prometheus that scrapes a daemon, queries, and expected results.

mod queries;
mod truth;

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

pub use queries::{documented_names, documented_queries, metric_names};
pub use truth::{Rates, Samples, Truth, records};

use observer_test_support::{
    PATIENCE,
    http::{Reply, get},
    spawn,
};

/// Seconds since 1970, as Prometheus and Python have them.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock that is set").as_secs_f64()
}

/// One series of an answer: its labels, and times with values.
pub struct Series {
    pub labels: Value,
    pub points: Vec<(f64, f64)>,
}

/// A running Prometheus with its own data directory.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` each second, and waits until it answers.
    pub fn start(target: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n\
             - job_name: observer\n  \
               static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(directory.path().join("prometheus.yml"), config).unwrap();
        let mut command = Command::new("prometheus");
        for (flag, file) in [
            ("config.file", "prometheus.yml"),
            ("storage.tsdb.path", "data"),
        ] {
            command.arg(format!(
                "--{flag}={}",
                directory.path().join(file).display()
            ));
        }
        Self::run(command, directory)
    }

    /// Runs one whose files are in a directory on any free port, and waits until it answers.
    pub fn run(mut command: Command, directory: tempfile::TempDir) -> Self {
        let log = directory.path().join("log");
        command
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let child = spawn(&mut command).expect("prometheus can be started");
        let mut this = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
            _directory: directory,
        };
        let started = Instant::now();
        while !this.ready() {
            let ended = this.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "prometheus does not start ({ended:?}):\n{}",
                this.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        this
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Whether it responds; finds its address in its log.
    fn ready(&mut self) -> bool {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("Listening on"));
        let address = line.and_then(|line| line.split("address=").nth(1));
        let Some(address) = address.and_then(|rest| rest.split_whitespace().next()) else {
            return false;
        };
        self.address = address.parse().expect("an address");
        get(self.address, "/-/ready").is_ok_and(|reply| reply.status == 200)
    }

    /// The answer to an API call, or why there is none.
    fn ask(&self, call: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let parameters: Vec<String> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)))
            .collect();
        let path = format!("/api/v1/{call}?{}", parameters.join("&"));
        let Reply { status, body, .. } = get(self.address, &path).expect("it answers");
        let mut answer: Value = serde_json::from_str(&body)
            .map_err(|error| format!("{call}: {status}: {error}: {body}"))?;
        if status == 200 && answer["status"] == "success" {
            Ok(answer["data"].take())
        } else {
            Err(format!("{call}: {status}: {body}"))
        }
    }

    /// Every name that a metric has.
    pub fn names(&self) -> Vec<String> {
        let names = self.ask("label/__name__/values", &[]).unwrap();
        serde_json::from_value(names).expect("an array of names")
    }

    /// Evaluates a query at this moment.
    pub fn query(&self, query: &str) -> Result<Vec<Series>, String> {
        Ok(series(&self.ask("query", &[("query", query)])?))
    }

    /// Evaluates a query at each second from `start` to `end`.
    pub fn query_range(&self, query: &str, start: f64, end: f64) -> Vec<Series> {
        let [start, end] = [start, end].map(|time| format!("{time:.3}"));
        let parameters = [
            ("query", query),
            ("start", &start),
            ("end", &end),
            ("step", "1"),
        ];
        let data = self.ask("query_range", &parameters).unwrap();
        series(&data)
    }

    /// What was scraped of the only series that a selector selects, with how long each scrape
    /// took.
    pub fn samples(&self, selector: &str) -> Samples {
        let only = |selector: &str| {
            let mut found = self.query(&format!("{selector}[30m]")).unwrap();
            let labels: Vec<_> = found.iter().map(|it| &it.labels).collect();
            assert_eq!(found.len(), 1, "series of {selector}: {labels:?}");
            found.remove(0).points
        };
        Samples::new(&only(selector), &only("scrape_duration_seconds"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For a URL: everything but letters and digits in hexadecimal.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Series of an answer, be it a vector, which has one `value` each, or a matrix, which has
/// `values`. A scalar has none.
fn series(data: &Value) -> Vec<Series> {
    let point = |pair: &Value| -> (f64, f64) {
        let time = pair[0].as_f64().expect("a time");
        let value = pair[1].as_str().expect("a value as a string");
        (time, value.parse().expect("a number"))
    };
    let result = data["result"].as_array().expect("a result");
    if data["resultType"] == "scalar" {
        return Vec::new();
    }
    result
        .iter()
        .map(|series| Series {
            labels: series["metric"].clone(),
            points: match series["values"].as_array() {
                Some(values) => values.iter().map(point).collect(),
                None => vec![point(&series["value"])],
            },
        })
        .collect()
}
