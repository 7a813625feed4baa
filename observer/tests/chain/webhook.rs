//! An HTTP server that receives Alertmanager's notifications.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use observer_test_support::is_of_another_test;
use serde_json::Value;

/// The notifications.
#[derive(Default)]
pub struct Told {
    /// All alerts that were notified as firing, by labels; not those about programs of other tests.
    pub fired: BTreeMap<String, Value>,
    /// Last status of each group of alerts, by labels: `firing` or `resolved`.
    pub groups: BTreeMap<String, String>,
}

/// It ends with the test.
pub struct Webhook {
    pub address: SocketAddr,
    told: Arc<Mutex<Told>>,
}

impl Webhook {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::default();
        let taken = Arc::clone(&told);
        thread::spawn(move || {
            // Alertmanager keeps a connection for each group that it notifies at once: one that waited for
            // accept() would be a finding about this server.
            for stream in listener.incoming().map_while(Result::ok) {
                let taken = Arc::clone(&taken);
                thread::spawn(move || take(&stream, &taken));
            }
        });
        Self { address, told }
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads requests until the connection ends.
fn take(stream: &TcpStream, told: &Mutex<Told>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("the whole body");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let comm = body["groupLabels"]["comm"].as_str().unwrap_or_default();
        if !is_of_another_test(comm) {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            let status = body["status"].as_str().expect("a status");
            told.groups
                .insert(body["groupLabels"].to_string(), status.to_owned());
            for alert in body["alerts"].as_array().expect("alerts") {
                if alert["status"] == "firing" {
                    told.fired
                        .insert(alert["labels"].to_string(), alert.clone());
                }
            }
        }
        let mut stream = stream;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}
