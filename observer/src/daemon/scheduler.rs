//! Runs the daemon's recurring jobs, each at its own interval and on its own thread, and measures them.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use observer_core::{
    config::Settings,
    export::{Health, jobs::JobMetrics},
    sync::lock,
};
use tokio::{sync::watch, task::JoinSet};
use tracing::{info, warn};

use super::shared::timed;

/// A recurring job of the daemon. It may block: the other jobs and signal handling continue meanwhile.
pub trait Job: Send + 'static {
    /// Value of the label `task`.
    fn name(&self) -> &'static str;

    /// Time from the end of one run to the start of the next.
    fn interval(&self, settings: &Settings) -> Duration;

    /// Whether the first run is at the start; else it is one interval later.
    fn runs_at_start(&self) -> bool {
        true
    }

    /// Takes over settings: called before the first run and after each reload.
    fn configure(&mut self, _settings: &Settings) {}

    /// Does the work once.
    ///
    /// # Errors
    ///
    /// The error is counted, logged if it differs from that of the last run, and the job runs again
    /// after its interval. A failed job removes the values that it published before.
    fn run(&mut self) -> anyhow::Result<()>;
}

/// Maximum time between finished runs of a job before the daemon counts as stuck. It is long, so
/// that slow runs do not restart the daemon.
fn stuck_after(interval: Duration) -> Duration {
    interval * 10 + Duration::from_secs(20)
}

/// The daemon's jobs.
pub struct Scheduler {
    jobs: Vec<Box<dyn Job>>,
    metrics: JobMetrics,
    health: Arc<Health>,
}

impl Scheduler {
    /// Each finished run is counted in `metrics` and reported to `health`.
    pub fn new(metrics: JobMetrics, health: Arc<Health>) -> Self {
        Self {
            jobs: Vec::new(),
            metrics,
            health,
        }
    }

    /// Adds a job.
    pub fn add(&mut self, job: impl Job) {
        self.jobs.push(Box::new(job));
    }

    /// Runs all jobs until `stop`. Does not wait for a run that is in progress then.
    pub async fn run(self, settings: watch::Receiver<Settings>, stop: watch::Receiver<bool>) {
        let Self {
            jobs,
            metrics,
            health,
        } = self;
        let mut tasks = JoinSet::new();
        for job in jobs {
            metrics.begin(job.name());
            let task = Task {
                name: job.name(),
                job: Arc::new(Mutex::new(job)),
                metrics: metrics.clone(),
                health: Arc::clone(&health),
            };
            tasks.spawn(task.run(settings.clone(), stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "a job's task panicked");
            }
        }
    }
}

/// One job and its metrics.
struct Task {
    name: &'static str,
    job: Arc<Mutex<Box<dyn Job>>>,
    metrics: JobMetrics,
    health: Arc<Health>,
}

impl Task {
    /// Runs it until `stop`.
    async fn run(self, settings: watch::Receiver<Settings>, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.repeat(settings) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn repeat(&self, mut settings: watch::Receiver<Settings>) {
        let mut interval = self.configure(&mut settings);
        let mut due = Instant::now();
        if !lock(&self.job).runs_at_start() {
            due += interval;
        }
        self.health.beat(self.name, stuck_after(interval));
        let mut failing = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {
                    if self.once(&mut failing).await {
                        self.health.beat(self.name, stuck_after(interval));
                    }
                    due = Instant::now() + interval;
                }
                Ok(()) = settings.changed() => {
                    interval = self.configure(&mut settings);
                    self.health.beat(self.name, stuck_after(interval));
                    // The new interval may be shorter than the rest of the old one.
                    due = due.min(Instant::now() + interval);
                }
            }
        }
    }

    /// Hands the settings to the job and returns its interval.
    fn configure(&self, settings: &mut watch::Receiver<Settings>) -> Duration {
        let settings = settings.borrow_and_update();
        let mut job = lock(&self.job);
        job.configure(&settings);
        job.interval(&settings)
    }

    /// One run, on a thread that may block. Returns whether the run finished, with success or with
    /// an error: a job that panics in every run does no work, and /healthz must report that.
    /// `failing` is the error of the last run, so that each error is logged once and not every
    /// second.
    async fn once(&self, failing: &mut Option<String>) -> bool {
        let job = Arc::clone(&self.job);
        let started = Instant::now();
        let run = move || timed(|| lock(&job).run());
        let result = tokio::task::spawn_blocking(run).await;
        let took = started.elapsed();
        let (failure, cpu) = match &result {
            Ok((Ok(()), cpu)) => (None, *cpu),
            Ok((Err(error), cpu)) => (Some(format!("{error:#}")), *cpu),
            // Its Display contains a number that differs in each run. Its CPU time is not known.
            Err(_) => {
                let failure = "it panicked; the log has the place".to_owned();
                (Some(failure), Duration::ZERO)
            }
        };
        self.metrics
            .finished(self.name, took, cpu, failure.is_some());
        if *failing != failure {
            match &failure {
                Some(error) => warn!(job = self.name, error, "a job failed"),
                None => info!(job = self.name, "a job works again"),
            }
            *failing = failure;
        }
        result.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use prometheus::Registry;

    use super::*;

    const RUNS: &str = "observer_job_runs_total";
    const FAILURES: &str = "observer_job_failures_total";

    type Run = Box<dyn FnMut() -> anyhow::Result<()> + Send>;

    struct Probe {
        name: &'static str,
        at_start: bool,
        run: Run,
    }

    impl Job for Probe {
        fn name(&self) -> &'static str {
            self.name
        }

        fn interval(&self, settings: &Settings) -> Duration {
            settings.tick_interval
        }

        fn runs_at_start(&self) -> bool {
            self.at_start
        }

        fn run(&mut self) -> anyhow::Result<()> {
            (self.run)()
        }
    }

    fn job(
        name: &'static str,
        at_start: bool,
        run: impl FnMut() -> anyhow::Result<()> + Send + 'static,
    ) -> Probe {
        Probe {
            name,
            at_start,
            run: Box::new(run),
        }
    }

    fn settings(tick: Duration) -> Settings {
        Settings {
            tick_interval: tick,
            ..Settings::default()
        }
    }

    /// Runs `jobs` until `meanwhile` ends, and returns the metrics of the registry.
    fn schedule<T: Send + 'static>(
        tick: Duration,
        jobs: impl IntoIterator<Item = Probe>,
        meanwhile: impl FnOnce(&watch::Sender<Settings>, &Health) -> T + Send + 'static,
    ) -> (T, Registry) {
        let registry = Registry::new();
        let health = Arc::new(Health::new([]));
        let metrics = JobMetrics::new(&registry).unwrap();
        let mut scheduler = Scheduler::new(metrics, Arc::clone(&health));
        for job in jobs {
            scheduler.add(job);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(async {
            let (sender, settings) = watch::channel(settings(tick));
            let (stop, stopped) = watch::channel(false);
            let running = tokio::spawn(scheduler.run(settings, stopped));
            let result = tokio::task::spawn_blocking(move || meanwhile(&sender, &health));
            let result = result.await.unwrap();
            stop.send(true).unwrap();
            running.await.unwrap();
            result
        });
        // Like the daemon, does not wait for a run in progress.
        runtime.shutdown_background();
        (result, registry)
    }

    fn counter(registry: &Registry, name: &str, job: &str) -> f64 {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.expect("the family").get_metric();
        let of_job = |metric: &&prometheus::proto::Metric| metric.get_label()[0].value() == job;
        let metric = metrics.iter().find(of_job).expect("the job's series");
        metric.get_counter().get_value()
    }

    #[test]
    fn jobs_run_again_and_are_counted() {
        let (sender, runs) = mpsc::channel();
        let good = job("good", true, move || Ok(sender.send(())?));
        let (sender, failures) = mpsc::channel();
        let bad = job("bad", true, move || {
            // The receiver is dropped at the end of the test.
            let _ = sender.send(());
            anyhow::bail!("as it should")
        });
        let (_, registry) = schedule(Duration::from_millis(1), [good, bad], move |_, _| {
            for receiver in [&runs, &failures] {
                for _ in 0..3 {
                    receiver.recv().unwrap();
                }
            }
            (runs, failures)
        });
        assert!(counter(&registry, RUNS, "good") >= 2.0);
        assert_eq!(counter(&registry, FAILURES, "good"), 0.0);
        // A run is counted after its end, and the third may not have been.
        assert!(counter(&registry, FAILURES, "bad") >= 2.0);
    }

    #[test]
    fn a_job_that_panics_runs_again() {
        let (sender, runs) = mpsc::channel();
        let job = job("panics", true, move || {
            sender.send(()).unwrap();
            panic!("as it should")
        });
        let (_, registry) = schedule(Duration::from_millis(1), [job], move |_, _| {
            runs.recv().unwrap();
            runs.recv().unwrap();
            runs
        });
        assert!(counter(&registry, FAILURES, "panics") >= 1.0);
    }

    #[test]
    fn a_job_that_blocks_holds_up_neither_another_nor_the_end() {
        let (never, blocks) = mpsc::channel::<()>();
        let blocked = job("blocked", true, move || Ok(blocks.recv()?));
        let (sender, runs) = mpsc::channel();
        let other = job("other", true, move || Ok(sender.send(())?));
        schedule(Duration::from_millis(1), [blocked, other], move |_, _| {
            for _ in 0..3 {
                runs.recv().unwrap();
            }
            runs
        });
        drop(never);
    }

    #[test]
    fn a_shorter_interval_holds_at_once() {
        let (sender, runs) = mpsc::channel();
        let job = job("late", false, move || Ok(sender.send(())?));
        schedule(Duration::from_secs(3600), [job], move |changed, _| {
            changed.send_replace(settings(Duration::from_millis(1)));
            runs.recv().unwrap();
            runs
        });
    }

    #[test]
    fn every_job_is_reported_to_health() {
        let (never, blocks) = mpsc::channel::<()>();
        let job = job("blocked", true, move || Ok(blocks.recv()?));
        schedule(Duration::from_secs(1), [job], |_, health| {
            // Not stuck yet: it may take thirty seconds.
            assert!(health.stuck().is_none());
        });
        drop(never);
    }
}
