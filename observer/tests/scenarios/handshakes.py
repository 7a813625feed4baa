#!/usr/bin/env python3
"""TLS handshakes that fail, three a second, by the first argument. `expired`: the server's certificate has expired. `curl`: the
same for curl, which is a process for each request. `reset`: the server closes without reading, like a proxy whose backend is
gone. `hasty`: the server hangs, and the client gives up after 0.3 s. `plain`: the server sends a greeting in plain text, most of which is unread when the client closes, eighty times a second."""
import os, shutil, socket, ssl, subprocess, threading, time

from common import ARGS, NAME, child, rename, say
from shared import listen, pace

KIND = ARGS[0]
FOLDER = f"{os.environ['TMPDIR']}/{NAME}"
KEY, REQUEST, CERTIFICATE, CONFIG, INDEX = (f"{FOLDER}/{name}" for name in ("key", "request", "certificate", "config", "index"))
# What `openssl ca` needs. Other commands do not make certificates that have expired.
CA = f"""[ca]
default_ca = it
[it]
database = {INDEX}
new_certs_dir = {FOLDER}
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = DNS:localhost
"""


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_certificate():
    os.mkdir(FOLDER)
    open(INDEX, "w").close()
    with open(CONFIG, "w") as config:
        config.write(CA)
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost", "-keyout", KEY,
            "-out", REQUEST)
    openssl("ca", "-batch", "-notext", "-config", CONFIG, "-selfsign", "-keyfile", KEY, "-in", REQUEST, "-out", CERTIFICATE,
            "-startdate", "20200101000000Z", "-enddate", "20200201000000Z")


def server(ready):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)

    def serve(c):
        try:
            context.wrap_socket(c, server_side=True).close()
        except OSError:
            c.close()

    def greet(c):
        try:
            c.sendall(b"220 hello\r\n" * 100)
            while c.recv(1000):
                pass
        except OSError:
            pass
        c.close()

    def hang(c):
        time.sleep(3)
        c.close()

    s = listen(443)
    ready()
    while True:
        c = s.accept()[0]
        if KIND == "reset":
            # Its ClientHello has come.
            time.sleep(0.05)
            c.close()
        elif KIND == "hasty":
            threading.Thread(target=hang, args=[c], daemon=True).start()
        else:
            threading.Thread(target=greet if KIND == "plain" else serve, args=[c], daemon=True).start()


def ask():
    try:
        with socket.create_connection(("127.0.0.1", 443), 0.3 if KIND == "hasty" else None) as c:
            context.wrap_socket(c, server_hostname="localhost").close()
    except OSError:
        return
    raise AssertionError("a handshake succeeded")


make_certificate()
child("server", server)
if KIND == "curl":
    # A process is named after its file.
    curl = f"{FOLDER}/{NAME}-client"
    os.symlink(shutil.which("curl"), curl)
    say("start")
    for _ in pace(3):
        # CURLE_PEER_FAILED_VERIFICATION
        assert subprocess.run([curl, "-s", "--cacert", CERTIFICATE, "https://localhost"]).returncode == 60
rename("client")
context = ssl.create_default_context(cafile=CERTIFICATE)
say("start")
for _ in pace(80 if KIND == "plain" else 3):
    ask()
