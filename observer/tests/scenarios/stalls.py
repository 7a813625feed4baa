#!/usr/bin/env python3
"""Connections that wait, by the first argument. `handshakes`: half of a pool of ten hangs in TLS handshakes. `no-tls`: the same by
TCP alone. `held-up`: the server hangs while it looks for the certificate of these five. `silent`: half of the ten clients of a TLS server say nothing, from another address. `hangs`: a backend is stopped while ten connections of a
pool are in use. `reader`: a program stops reading what six others stream to it. `clients`: a
server streams to six clients that do not read. `impatient`: a server that has answered takes requests and does nothing, and ten clients
give up after two seconds each. `gateway`: they reset their connections, as HAProxy does. `greeting`: they wait for the server to
speak first, as those of mail and MySQL servers do. `locked`: they have logged in and send their query at once. `workers`: eight workers of a server, with a client each, wait for another server that hangs. `busy`: all
four do, and twelve clients wait for them. `leak`: a client forgets two idle connections a second."""
import os, signal, socket, ssl, struct, subprocess, tempfile, threading, time

from common import ARGS, child, rename, say
from shared import listen, pace

KIND, kept = ARGS[0], []


def connect(port=80, source=None):
    c = socket.create_connection(("127.0.0.1", port), source_address=source)
    kept.append(c)
    return c


def answers(s, secure=lambda c: c):
    """Answers each request on each connection, once it is secure."""

    def one(c):
        c = secure(c)
        while c.recv(1000):
            c.sendall(b"answer")

    while True:
        threading.Thread(target=one, args=[s.accept()[0]], daemon=True).start()


def hang(port):
    """Takes connections and does nothing."""
    s = listen(port)

    def accept():
        while True:
            kept.append(s.accept()[0])

    threading.Thread(target=accept, daemon=True).start()


def tls(ready):
    """Answers on port 443; hangs on port 444."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = folder + "/key", folder + "/certificate"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key,
                        "-out", certificate], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if KIND == "held-up":
            context.sni_callback = lambda c, name, _: time.sleep(1000 if name == "slow" else 0)
    good = listen(443)
    hang(444)
    ready()
    answers(good, lambda c: context.wrap_socket(c, server_side=True))


def plain(ready):
    """The same without TLS."""
    good = listen(443)
    hang(444)
    ready()
    answers(good)


def backend(ready):
    s = listen(80)
    ready()
    answers(s)


def hanging(ready):
    hang(80)
    ready()
    time.sleep(1000)


def front(ready):
    """Workers accept what their parent listens for, and each asks the server on port 80."""
    s = listen(81)
    for _ in range(4 if KIND == "busy" else 8):
        if os.fork() == 0:
            while True:
                c = s.accept()[0]
                # As php-fpm, which leaves the last record of a request unread.
                c.sendall(ask(c.recv(3 if KIND == "busy" else 1000)))
                c.close()
    ready()
    time.sleep(1000)


def locking(ready):
    """Answers the first request of each connection, and not the second."""
    s = listen(80)
    ready()
    while True:
        c = s.accept()[0]
        c.sendall(c.recv(1000))
        kept.append(c)


def ask(request, timeout=None):
    with socket.create_connection(("127.0.0.1", 80), timeout) as c:
        if KIND == "gateway":
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.sendall(request)
        answer = c.recv(1000)
        if KIND == "locked":
            c.sendall(request)
            answer = c.recv(1000)
        return answer


def sink(ready):
    s = listen(80)
    ready()
    accepted = [s.accept()[0] for _ in range(6)]
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        for c in accepted:
            c.recv(65536)
    time.sleep(1000)


def pour(c):
    while True:
        c.sendall(b"x" * 1_000_000)


def source(ready):
    s = listen(80)
    ready()

    def stream(c):
        c.recv(1000)
        pour(c)

    while True:
        threading.Thread(target=stream, args=[s.accept()[0]], daemon=True).start()


def use(c, seconds):
    """Requests, ten a second, until one is not answered."""
    for _ in pace(10, seconds):
        c.sendall(b"request")
        c.recv(1000)


def together(work, items):
    threads = [threading.Thread(target=work, args=[item], daemon=True) for item in items]
    for thread in threads:
        thread.start()
    return threads


if KIND in ("handshakes", "no-tls", "silent", "held-up"):
    child("server", plain if KIND == "no-tls" else tls)
    rename("client")
    context = ssl._create_unverified_context()

    def secured(port, name="fast"):
        c = connect(port)
        return c if KIND == "no-tls" else context.wrap_socket(c, server_hostname=name)

    def renew(port):
        """Uses one connection after the other."""
        while True:
            with secured(port) as c:
                use(c, 1)

    together(renew, [443] * 5)
    # Longer than an observer needs for programs and libraries that are new to it.
    time.sleep(5)
    say("start")
    if KIND == "silent":
        for _ in range(5):
            connect(443, ("127.0.0.2", 0))
    elif KIND == "held-up":
        together(lambda port: use(secured(port, "slow"), 1), [443] * 5)
    else:
        together(lambda port: use(secured(port), 1), [444] * 5)
elif KIND == "hangs":
    pid = child("server", backend)
    rename("client")
    pool = [connect() for _ in range(10)]
    together(lambda c: use(c, 1000), pool)
    time.sleep(2)
    os.kill(pid, signal.SIGSTOP)
    say("start")
elif KIND in ("impatient", "gateway", "greeting", "locked"):
    child("server", locking if KIND == "locked" else hanging)
    rename("client")
    say("start")

    def tries(_):
        while True:
            try:
                ask(b"" if KIND == "greeting" else b"request", 2)
            except TimeoutError:
                pass

    together(tries, range(10))
elif KIND in ("workers", "busy"):
    child("server", hanging)
    child("front", front)
    rename("client")
    say("start")
    for _ in range(12 if KIND == "busy" else 8):
        connect(81).sendall(b"request")
elif KIND == "clients":
    child("server", source)
    rename("client")
    say("start")
    for _ in range(6):
        connect().sendall(b"request")
elif KIND == "reader":
    child("server", sink)
    rename("client")
    say("start")
    together(lambda _: pour(connect()), range(6))
else:
    child("server", backend)
    rename("client")
    say("start")
    for _ in pace(2):
        c = connect()
        c.sendall(b"request")
        c.recv(1000)
time.sleep(1000)
