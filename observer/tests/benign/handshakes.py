"""A client that tries seven addresses at once and goes on with the fastest one, so that it gives up six sevenths of its TLS
handshakes."""
import ssl

from load import *

isolate("benign-racing")
os.chdir(HOME)
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
    "/CN=localhost", "-keyout", "key", "-out", "certificate"], check=True, capture_output=True)


def server():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("certificate", "key")

    def answer(c):
        try:
            with context.wrap_socket(c, server_side=True) as c:
                c.recv(1000)
                c.sendall(b"answer")
        except OSError:
            c.close()

    s = listen(443)
    while True:
        threading.Thread(target=answer, args=[s.accept()[0]], daemon=True).start()


fork("benign-racedto", server)
wait_for(443)
context = ssl._create_unverified_context()
OTHERS = 6
fine = given_up = 0
for _ in paced(2):
    others = [connect(443) for _ in range(OTHERS)]
    with connect(443) as first:
        for number, other in enumerate(others):
            other.setblocking(False)
            others[number] = other = context.wrap_socket(other, do_handshake_on_connect=False)
            try:
                other.do_handshake()
            except ssl.SSLWantReadError:
                given_up += 1
        with context.wrap_socket(first) as first:
            for other in others:
                other.close()
            first.sendall(b"request")
            fine += first.recv(1000) == b"answer"
client = {"role": "client"}
report({"fine": [fine, SECONDS], "given_up": [given_up, OTHERS * SECONDS]}, [
    ["benign-racing", "socket_tls_handshakes_total", {**client, "result": "ok"}, SECONDS],
    ["benign-racing", "socket_tls_handshakes_total", {**client, "result": "failed"}, OTHERS * SECONDS]])
