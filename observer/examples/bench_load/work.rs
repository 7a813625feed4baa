//! The work of one worker, and its counts.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use crate::family;

/// The data that is sent in each direction of a connection.
const WORD: [u8; 8] = *b"benched\n";

/// Parts of the load by kind.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    short: u64,
    reset: u64,
    refused: u64,
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Result<Vec<u64>, _> = text.split(':').map(str::parse).collect();
        match parts.as_deref() {
            Ok(&[short, reset, refused]) if (1..=1000).contains(&(short + reset + refused)) => {
                Ok(Self {
                    short,
                    reset,
                    refused,
                })
            }
            _ => Err("three numbers are wanted, such as 7:2:1".to_owned()),
        }
    }
}

enum Kind {
    Short,
    Reset,
    Refused,
}

impl Mix {
    /// The kind of the `nth` connection.
    fn kind(&self, nth: u64) -> Kind {
        let Self {
            short,
            reset,
            refused,
        } = *self;
        let at = nth % (short + reset + refused);
        if at < short {
            Kind::Short
        } else if at < short + reset {
            Kind::Reset
        } else {
            Kind::Refused
        }
    }
}

/// The work of all workers.
#[derive(Clone, Debug)]
pub struct Plan {
    pub workers: usize,
    pub connections: u64,
    pub live: u64,
    pub ports: u16,
    pub mix: Mix,
    pub limit: Duration,
    /// Between two connections of one worker.
    pub pause: Option<Duration>,
}

/// `total` shared out fairly: what worker `index` of `workers` gets.
fn share(total: u64, index: usize, workers: usize) -> u64 {
    let (index, workers) = (index as u64, workers as u64);
    total / workers + u64::from(index < total % workers)
}

/// Counts of the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counts {
    /// Closed in order, by the client first.
    pub short: u64,
    /// Closed with an RST.
    pub reset: u64,
    /// Refused.
    pub refused: u64,
    /// Standing for the whole run.
    pub live: u64,
    /// Listening sockets.
    pub listeners: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        let Self {
            short,
            reset,
            refused,
            live,
            listeners,
        } = other;
        self.short += short;
        self.reset += reset;
        self.refused += refused;
        self.live += live;
        self.listeners += listeners;
    }

    /// The result: counts of the work in `elapsed`, with `cpu` time.
    pub fn to_json(self, elapsed: Duration, cpu: Duration) -> String {
        let Self {
            short,
            reset,
            refused,
            live,
            listeners,
        } = self;
        json!({
            "short": short,
            "reset": reset,
            "refused": refused,
            "live": live,
            "listeners": listeners,
            "seconds": elapsed.as_secs_f64(),
            "cpu_seconds": cpu.as_secs_f64(),
        })
        .to_string()
    }

    pub fn to_bytes(self) -> [u8; 40] {
        let Self {
            short,
            reset,
            refused,
            live,
            listeners,
        } = self;
        let mut bytes = [0; 40];
        let words = [short, reset, refused, live, listeners];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    pub fn from_bytes(bytes: [u8; 40]) -> Self {
        let mut words = bytes
            .chunks_exact(8)
            .map(|chunk| u64::from_ne_bytes(chunk.try_into().expect("eight bytes")));
        let mut next = || words.next().unwrap_or_default();
        Self {
            short: next(),
            reset: next(),
            refused: next(),
            live: next(),
            listeners: next(),
        }
    }
}

/// One thread's part of the load.
pub struct Worker<'a> {
    plan: &'a Plan,
    index: usize,
    /// With the number of each.
    listeners: Vec<(usize, TcpListener)>,
    live: Vec<(TcpStream, TcpStream)>,
    counts: Counts,
}

impl<'a> Worker<'a> {
    /// Listens, and opens its share of the live connections.
    pub fn new(plan: &'a Plan, index: usize) -> anyhow::Result<Self> {
        let mut listeners = Vec::new();
        for port in 0..usize::from(plan.ports) {
            let number = index * usize::from(plan.ports) + port;
            let address = family::listener(number)?;
            let listener = TcpListener::bind(address)
                .with_context(|| format!("cannot listen on {address}"))?;
            listeners.push((number, listener));
        }
        let mut worker = Self {
            plan,
            index,
            listeners,
            live: Vec::new(),
            counts: Counts {
                listeners: u64::from(plan.ports),
                ..Counts::default()
            },
        };
        for nth in 0..share(plan.live, index, plan.workers) {
            let pair = worker.open(nth)?;
            worker.live.push(pair);
            worker.counts.live += 1;
        }
        Ok(worker)
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Makes this worker's share of the connections.
    pub fn run(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        for nth in 0..share(self.plan.connections, self.index, self.plan.workers) {
            if let Some(pause) = self.plan.pause {
                // Against the start, so that delays do not add up.
                let due = pause.mul_f64(nth as f64);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            if nth.is_multiple_of(64) && start.elapsed() > self.plan.limit {
                break;
            }
            match self.plan.mix.kind(nth) {
                Kind::Short => {
                    let (client, server) = self.open(nth)?;
                    // The client closes first, so that it gets the TIME_WAIT.
                    drop(client);
                    drop(server);
                    self.counts.short += 1;
                }
                Kind::Reset => {
                    let (client, server) = self.open(nth)?;
                    let linger = nix::libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    setsockopt(&client, sockopt::Linger, &linger)?;
                    drop(client);
                    drop(server);
                    self.counts.reset += 1;
                }
                Kind::Refused => {
                    let (number, _) = self.pick(nth);
                    let to = family::closed(number, nth);
                    match TcpStream::connect(to) {
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                        Err(error) => return Err(error).with_context(|| format!("{to}")),
                        Ok(_) => anyhow::bail!("{to} did not refuse"),
                    }
                    self.counts.refused += 1;
                }
            }
        }
        Ok(())
    }

    /// The listening socket of the `nth` connection, and how many went to it before.
    fn pick(&self, nth: u64) -> (usize, &TcpListener) {
        let at = (nth % self.listeners.len() as u64) as usize;
        let (number, listener) = &self.listeners[at];
        (*number, listener)
    }

    /// Both ends of a connection that has carried data in both directions.
    fn open(&self, nth: u64) -> anyhow::Result<(TcpStream, TcpStream)> {
        let (number, listener) = self.pick(nth);
        let to: SocketAddr = family::destination(number, nth / self.listeners.len() as u64);
        let mut client =
            TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
        let (mut server, _) = listener.accept().context("cannot accept")?;
        let mut word = [0; WORD.len()];
        client.write_all(&WORD)?;
        server.read_exact(&mut word)?;
        server.write_all(&word)?;
        client.read_exact(&mut word)?;
        Ok((client, server))
    }
}
