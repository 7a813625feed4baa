//! Clients that send or read nothing.

use super::*;

#[test]
fn clients_that_send_no_request_take_no_answers_away() {
    run(async {
        let server = start(Duration::from_secs(60)).await;
        let mut slow = Vec::new();
        for _ in 0..300 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            // Those before have been replaced.
            let _ = stream.write_all(b"GET /metrics HT").await;
            slow.push(stream);
        }
        for path in ["/healthz", "/metrics"] {
            let request = format!("GET {path}");
            let answer = timeout(PROBE, ask(server.address, &request));
            let (head, _) = answer.await.expect("it answers soon");
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        }
    });
}

/// Counts how often the metrics were rendered.
struct Renderings(IntCounter);

impl Collector for Renderings {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.inc();
        self.0.collect()
    }
}

/// Asks for metrics with a small receive buffer and reads nothing but the status.
async fn ask_and_stop(address: SocketAddr) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    (stream, String::from_utf8(status.to_vec()).unwrap())
}

#[test]
fn clients_that_do_not_read_take_neither_health_nor_memory() {
    run(async {
        let every_process = TableConfig {
            max_processes: 1000,
            ..TableConfig::default()
        };
        let renderings = IntCounter::new("renderings_total", "Renderings.").unwrap();
        let registry = Registry::new();
        let counted = Renderings(renderings.clone());
        registry.register(Box::new(counted)).unwrap();
        let server = start_with(App {
            exporter: exporter(thousand_processes(), every_process),
            registry,
            health: Arc::new(health(Duration::from_secs(60))),
            ..app_of(thousand_processes())
        })
        .await;
        let (_, body) = ask(server.address, "GET /metrics").await;
        assert!(body.len() > 1 << 19, "fits into buffers: {}", body.len());
        renderings.reset();
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..100 {
            clients.spawn(ask_and_stop(server.address));
        }
        let clients = clients.join_all().await;
        let served = |(_, status): &&(TcpStream, String)| status == "HTTP/1.1 200";
        let served = clients.iter().filter(served).count();
        assert_eq!(served, SCRAPES, "after {:?}", started.elapsed());
        // At first one begins, and all that come meanwhile share the next.
        assert!(renderings.get() < SCRAPES as u64, "{}", renderings.get());

        let (head, _) = timeout(PROBE, ask(server.address, "GET /healthz"))
            .await
            .expect("it answers soon");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let (head, _) = ask(server.address, "GET /metrics").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(head.contains("retry-after: 1"), "{head}");

        // They are disconnected.
        let started = Instant::now();
        loop {
            let (head, _) = ask(server.address, "GET /metrics").await;
            if head.starts_with("HTTP/1.1 200") {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{head}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        drop(clients);
    });
}

#[test]
#[ignore = "takes ten seconds"]
fn silent_clients_are_hung_up_on() {
    run(async {
        let server = start(Duration::from_secs(60)).await;
        for sent in ["", "GET /met", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(sent.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let read = stream.read_to_end(&mut answer);
            timeout(Duration::from_secs(12), read)
                .await
                .expect("still open")
                .unwrap();
        }
    });
}

#[test]
fn it_stops_when_told_and_idle_connections_do_not_hold_it() {
    run(async {
        let Running {
            address,
            health: _,
            stop,
            server,
        } = start(Duration::from_secs(60)).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 15];
        idle.read_exact(&mut answer).await.unwrap();
        stop.send(()).unwrap();
        timeout(Duration::from_secs(20), server)
            .await
            .unwrap()
            .unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    });
}

/// Whoever may connect to the port does not keep `observer doctor` from an answer.
#[test]
fn clients_over_tcp_take_nothing_from_those_over_the_unix_socket() {
    run(async {
        let every_process = TableConfig {
            max_processes: 1000,
            ..TableConfig::default()
        };
        let app = App {
            exporter: exporter(thousand_processes(), every_process),
            ..app_of(thousand_processes())
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let socket = ApiSocket::open(Some(&path), None, None).unwrap().unwrap();
        let listener = Server::listen(([127, 0, 0, 1], 0).into()).unwrap();
        let server = Server::new(listener, app).unwrap();
        let server = server.with_socket(socket.listener().unwrap()).unwrap();
        let address = server.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        let mut clients = Vec::new();
        while let (client, status) = ask_and_stop(address).await
            && status == "HTTP/1.1 200"
        {
            clients.push(client);
        }
        assert_eq!(clients.len(), SCRAPES);
        // More than there are connections.
        for _ in 0..200 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let report = tokio::task::spawn_blocking(move || client::get(&path, "/api/v1/doctor"));
        let report = report.await.unwrap().expect("an answer");
        assert!(report["findings"].is_array(), "{report}");
        stop.send(()).unwrap();
        drop(clients);
        server.await.unwrap();
    });
}
