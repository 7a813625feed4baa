//! `observer run`: starts everything and runs until a signal.
//!
//! Order matters: settings and the listening address are checked before anything is attached;
//! capabilities are dropped before the tokio runtimes have threads, because they are per thread.

mod findings;
mod jobs;
mod scheduler;
mod shared;
mod signals;
mod stream;
pub mod tail;

use std::{
    path::Path,
    process::ExitCode,
    sync::{Arc, Once, RwLock, atomic::AtomicBool},
};

use anyhow::Context as _;
use observer_common::{RECORD_STATE, SLOT_FIRST};
use observer_core::{
    btf::VMLINUX,
    config::{RunArgs, Settings},
    contract::{KernelSource as _, Status, Verdict, summaries},
    detect::Engine,
    export::{
        Exporter, Health,
        jobs::{DriftMetrics, JobMetrics, WalkMetrics},
    },
    host::HostFacts,
    names::ResetReasons,
    table::{Table, TableConfig},
};
use signal_hook::consts::SIGHUP;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use self::{
    jobs::{
        Detect, Fds, KindsOfFds, Listeners, Namespaces, Ports, Reconcile, Resync, Tick, Tls,
        WebConfig, resync, tls,
    },
    scheduler::Scheduler,
    shared::{Shared, scan_limits},
};
use crate::{
    cli, heap,
    kernel::{Attached, Kernel, LoadOptions, Stream, mount_tracefs},
    logging,
    logging::LogHandle,
    namespaces,
    privileges::{self, Account},
    sandbox,
    service::{self, Notifier},
    web::{ApiSocket, App, Inherited, Server, WebConfigFile},
};

/// Combinations of process, option and errno of failed setsockopt calls.
const MAX_SOCKOPT_FAILURES: u32 = 8192;
/// All kinds of record except state transitions, of which a connection has about ten.
const RECORDS: u32 = (1 << RECORD_STATE) - 1;

/// Loads and attaches the programs with `options`, and logs missing fields and signals.
///
/// # Errors
///
/// When a required hook cannot be attached.
pub fn attach(options: &LoadOptions) -> anyhow::Result<(Attached, Stream, ResetReasons)> {
    // It stays mounted: unmounting needs a capability that is dropped later.
    if let Some(mounted) = mount_tracefs() {
        mounted.keep();
    }
    let loaded = Kernel::examine(&options.btf)?.load(options)?;
    for absent in &loaded.absent {
        warn!(
            field = absent.global,
            reason = absent.reason,
            "a kernel field is missing"
        );
    }
    if let Some(why) = &loaded.untested {
        info!(why, "self-test skipped");
    }
    let reasons = ResetReasons::new(loaded.reset_reasons.clone());
    let (live, stream) = Attached::new(loaded, options)?;
    log_missing(live.verdicts());
    Ok((live, stream, reasons))
}

/// Logs the signals that are not observed, on one line for each reason; every hook at debug level.
fn log_missing(verdicts: &[Verdict]) {
    for Verdict {
        signal,
        attach_type,
        hook,
        status,
        detail,
        ..
    } in verdicts
    {
        let attach_type = attach_type.name();
        debug!(signal, attach_type, hook, ?status, detail, "hook");
    }
    let mut missing: Vec<(&str, Vec<&str>)> = Vec::new();
    for summary in summaries(verdicts) {
        let unavailable = summary.unavailable.filter(|_| summary.hooks.is_empty());
        let Some(Verdict { detail, .. }) = unavailable else {
            continue;
        };
        match missing.iter_mut().find(|(reason, _)| reason == detail) {
            Some((_, signals)) => signals.push(summary.signal),
            None => missing.push((detail, vec![summary.signal])),
        }
    }
    for (reason, signals) in missing {
        warn!(signal = signals.join(", "), reason, "not observed");
    }
}

/// Logs the signals whose hooks are not the preferred ones, on one line each.
fn log_fallbacks(verdicts: &[Verdict]) {
    /// An event has one level at compile time.
    macro_rules! log {
        ($level:ident, $summary:ident, $unavailable:ident) => {
            $level!(
                signal = $summary.signal,
                hooks = $summary.hooks_text(),
                lacks = $summary.remarks.join("; "),
                unavailable = $unavailable.hook,
                reason = $unavailable.detail,
                "preferred hook unavailable, using a fallback"
            )
        };
    }
    for summary in summaries(verdicts) {
        let unavailable = summary.unavailable.filter(|_| !summary.hooks.is_empty());
        let Some(unavailable) = unavailable else {
            continue;
        };
        match (summary.is_inferior(), unavailable.status) {
            (false, _) => log!(debug, summary, unavailable),
            // That was decided, so it needs no attention.
            (true, Status::Disabled) => log!(info, summary, unavailable),
            (true, _) => log!(warn, summary, unavailable),
        }
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// Bad settings, an address in use, missing privileges, hooks that cannot be attached.
pub fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    // SIGHUP may arrive during the start, if the file is changed just after the service is started.
    let early_hangup = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, Arc::clone(&early_hangup))
        .context("cannot handle SIGHUP")?;
    let settings = args.settings()?;
    let log = logging::init(settings.log_format, &settings.log_level)?;
    let notifier = Notifier::from_env();
    let web_file = settings.web_config_file.as_deref();
    let web_file = web_file.map(WebConfigFile::open).transpose()?;
    let inherited = Inherited::take()?;
    let listener = match inherited.tcp {
        Some(listener) => listener,
        None => Server::listen(settings.listen)?,
    };
    privileges::is_root_or_capable()?;
    require_initial_namespaces(settings.allow_private_namespaces)?;
    let account = Account::find(settings.user.as_deref())?;
    // Before seccomp and Landlock, because the socket can be at any path.
    let (path, group) = (
        settings.api_socket.as_deref(),
        settings.api_group.as_deref(),
    );
    let socket = match inherited.unix {
        Some(socket) => Some(ApiSocket::inherited(socket)),
        None => ApiSocket::open(path, group, account.as_ref())?,
    };
    privileges::raise_memlock();
    let stats = settings
        .bpf_stats
        .then(|| aya::sys::enable_stats(aya::sys::Stats::RunTime))
        .transpose();
    // The kernel keeps statistics while this descriptor is open.
    let _stats = stats.unwrap_or_else(|error| {
        warn!(%error, "cannot enable run-time statistics of BPF programs");
        None
    });
    let options = load_options(&settings);
    let (live, stream, reasons) = attach(&options)?;
    log_fallbacks(live.verdicts());
    let live = Arc::new(live);
    let health = Arc::new(Health::new([resync::STEP]));
    let registry = prometheus::Registry::new();
    let metrics = JobMetrics::new(&registry)?;
    let mut scheduler = Scheduler::new(metrics, Arc::clone(&health));
    if walks_open_files(&live) {
        let metrics = WalkMetrics::new(&registry)?;
        let mut resync = Resync::new(Arc::clone(&live), Arc::clone(&health), metrics);
        match resync.walk() {
            Ok(resynced) => info!(
                sockets = resynced.seeded,
                took = ?resynced.took,
                "attributed sockets opened before the start"
            ),
            Err(error) => error!(
                error = format!("{error:#}"),
                "sockets opened before the start stay unattributed until they change state or a \
                 resynchronisation succeeds"
            ),
        }
        scheduler.add(resync);
    } else {
        // Existing sockets stay unattributed; everything else works.
        health.done(resync::STEP);
        heap::give_back();
    }
    if let Some(tls) = live.tls() {
        tls::look_at_start(tls);
    }
    let confined = !settings.keep_capabilities;
    if confined {
        give_up_privileges(account.as_ref())?;
    } else {
        info!("keeping the user and all capabilities (--keep-capabilities)");
    }

    let facts = Arc::new(HostFacts::new(scan_limits(&settings)));
    let selection = settings.selection();
    let table = Arc::new(RwLock::new(Table::new(TableConfig {
        max_names: settings.max_names as usize,
        max_processes: settings.max_processes as usize,
        slots: settings.max_tracked_processes as usize,
        filter: Some(Box::new(move |comm, unit| selection.selects(comm, unit))),
        ..TableConfig::default()
    })));
    let engine = Arc::new(RwLock::new(Engine::new(settings.thresholds.clone())));
    let exporter = Exporter::new(
        Arc::clone(&table),
        Arc::clone(&engine),
        live.clone(),
        facts.clone(),
        cli::build(),
        settings.process_metrics,
    );
    let shared = Shared {
        live,
        facts,
        table,
        snapshot: watch::Sender::default(),
        walk: watch::Sender::default(),
        namespaces: watch::Sender::default(),
        fd_kinds: watch::Sender::default(),
        recorded_peers: Arc::default(),
        recorded_binds: Arc::default(),
        engine,
    };
    scheduler.add(Tick::new(shared.clone(), exporter.clone()));
    scheduler.add(Fds(shared.clone()));
    scheduler.add(Listeners::new(shared.clone()));
    scheduler.add(Ports::new(shared.clone()));
    scheduler.add(Namespaces::new(shared.clone()));
    scheduler.add(KindsOfFds::new(shared.clone()));
    if let Some(tls) = shared.live.tls() {
        let job = Tls::new(shared.clone(), tls).context("cannot start a thread")?;
        scheduler.add(job);
    }
    scheduler.add(Detect::new(shared.clone()));
    let drift = DriftMetrics::new(&registry)?;
    scheduler.add(Reconcile::new(shared.clone(), drift));
    let web = match &web_file {
        Some(file) => file.subscribe(),
        None => watch::Sender::default().subscribe(),
    };
    let scheme = web.borrow().scheme();
    if let Some(file) = web_file {
        scheduler.add(WebConfig(file));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the tokio runtime")?;
    let http = http_runtime(confined).context("cannot start the tokio runtime for HTTP")?;
    let state = {
        let not_observed = not_observed(shared.live.verdicts());
        let (exporter, health) = (exporter.clone(), Arc::clone(&health));
        move || service::State {
            stuck: health.stuck(),
            findings: exporter.findings(),
            not_observed: not_observed.clone(),
            not_reloaded: None,
        }
    };
    let app = App {
        exporter,
        registry,
        health,
        snapshot: shared.snapshot.subscribe(),
        max_requests: settings.max_requests,
        web,
        reader: runtime.handle().clone(),
    };
    let server = {
        let _runtime = http.enter();
        let server = Server::new(listener, app)?;
        match &socket {
            Some(socket) => server.with_socket(socket.listener()?)?,
            None => server,
        }
    };
    info!(
        "serving metrics on {scheme}://{}/metrics",
        server
            .local_addr()
            .context("cannot get the local address")?
    );
    let notifier = Arc::new(notifier);
    {
        let notifier = Arc::clone(&notifier);
        runtime.spawn(async move { service::report(&notifier, state).await });
    }
    let result = runtime.block_on(serve(
        args,
        early_hangup,
        settings,
        log,
        &notifier,
        server,
        http.handle(),
        scheduler,
        shared,
        stream,
        reasons,
    ));
    // A job may be blocked by the kernel or by another process; do not wait for it.
    runtime.shutdown_background();
    http.shutdown_background();
    result?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Sizes and switches of the kernel side for `settings`, with all records that the daemon reads.
pub(crate) fn load_options(settings: &Settings) -> LoadOptions {
    LoadOptions {
        ring_bytes: settings.ring_bytes,
        max_connections: settings.max_connections,
        // The first slots belong to no process.
        slots: settings.max_tracked_processes + SLOT_FIRST,
        max_sockopt_failures: MAX_SOCKOPT_FAILURES,
        record_mask: RECORDS,
        hooks: settings.hooks,
        syscall_tracepoints: settings.syscall_tracepoints,
        tls: settings.tls,
        self_test: settings.self_test,
        btf: VMLINUX.into(),
        log: tracing::enabled!(target: "observer", tracing::Level::DEBUG),
    }
}

/// Signals without an attached hook.
fn not_observed(verdicts: &[Verdict]) -> Vec<&'static str> {
    let summaries = summaries(verdicts);
    let unserved = summaries.iter().filter(|it| it.missing().is_some());
    unserved.map(|it| it.signal).collect()
}

/// Whether the iterator over open files (`iter/task_file`) is attached.
fn walks_open_files(live: &Attached) -> bool {
    let walks = |it: &Verdict| it.signal == "sockets" && it.status == Status::Attached;
    live.verdicts().iter().any(walks)
}

/// Fails in a pid or time namespace other than the initial one, unless `allowed`.
pub(crate) fn require_initial_namespaces(allowed: bool) -> anyhow::Result<()> {
    let private = namespaces::private(Path::new("/proc")).join(" and ");
    if private.is_empty() {
        return Ok(());
    }
    let what = format!(
        "in a {private} namespace other than the host's, {}",
        namespaces::REMEDY
    );
    anyhow::ensure!(allowed, "{what}, or allow it by --allow-private-namespaces");
    warn!("{what}");
    Ok(())
}

/// Becomes `account`, drops capabilities and installs the seccomp filter, for this thread and those
/// that it will start.
///
/// # Errors
///
/// When the kernel refuses the first two. Not every kernel has seccomp.
pub(crate) fn give_up_privileges(account: Option<&Account>) -> anyhow::Result<()> {
    let dropped = privileges::drop_capabilities(&privileges::KEEP, account)
        .context("cannot drop privileges (--keep-capabilities runs with all of them)")?;
    info!(
        uid = nix::unistd::geteuid().as_raw(),
        "capabilities: {dropped}"
    );
    if nix::unistd::geteuid().is_root() {
        info!("still root: create the user `observer`, or choose a user with --user");
    }
    match sandbox::install_seccomp() {
        Ok(()) => info!("seccomp filter installed"),
        Err(error) => warn!(%error, "no seccomp filter"),
    }
    Ok(())
}

/// The threads that talk to HTTP clients: without capabilities, and with Landlock.
fn http_runtime(confined: bool) -> std::io::Result<tokio::runtime::Runtime> {
    static LOGGED: Once = Once::new();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("http").enable_all();
    if confined {
        builder.on_thread_start(|| match sandbox::confine_thread() {
            Ok(landlock) => LOGGED.call_once(|| {
                if landlock {
                    info!("Landlock restricts the HTTP threads");
                } else {
                    warn!("no Landlock: this kernel does not support it, or it is not enabled");
                }
            }),
            Err(error) => {
                error!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "stopping"
                );
                std::process::exit(1);
            }
        });
    }
    builder.build()
}

#[expect(
    clippy::too_many_arguments,
    reason = "everything that run() prepared before there were threads, used once"
)]
async fn serve(
    args: RunArgs,
    early_hangup: Arc<AtomicBool>,
    settings: Settings,
    log: LogHandle,
    notifier: &Notifier,
    server: Server,
    http: &tokio::runtime::Handle,
    scheduler: Scheduler,
    shared: Shared,
    stream: Stream,
    reasons: ResetReasons,
) -> anyhow::Result<()> {
    let (settings, settings_seen) = watch::channel(settings);
    let (stop, stopped) = watch::channel(false);
    let mut reader = tokio::spawn(stream::read(
        stream,
        reasons,
        shared,
        settings_seen.clone(),
        stopped.clone(),
    ));
    let mut jobs = tokio::spawn(scheduler.run(settings_seen, stopped.clone()));
    let work = async {
        let result = tokio::select! {
            result = signals::handle(args, &early_hangup, &settings, &log, notifier) => result,
            ended = &mut reader => Err(ended_early("the reader of the ring", ended)),
            ended = &mut jobs => Err(ended_early("the scheduler of the jobs", ended)),
        };
        notifier.stopping();
        stop.send_replace(true);
        result
    };
    let mut closing = stopped;
    let served = http.spawn(server.run(async move {
        let _ = closing.wait_for(|stop| *stop).await;
    }));
    let result = work.await;
    served.await.context("the HTTP server failed")?;
    result
}

/// The error for a task that ended unexpectedly.
fn ended_early(what: &str, ended: Result<(), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(()) => anyhow::anyhow!("{what} ended"),
        Err(error) => anyhow::Error::from(error).context(format!("{what} failed")),
    }
}
