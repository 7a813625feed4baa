"""A client that tries two addresses at once and goes on with the faster one, so that it gives up half of its TLS handshakes."""
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
fine = given_up = 0
for _ in paced(10):
    with connect(443) as fast, connect(443) as slow:
        slow.setblocking(False)
        slow = context.wrap_socket(slow, do_handshake_on_connect=False)
        try:
            slow.do_handshake()
        except ssl.SSLWantReadError:
            given_up += 1
        with context.wrap_socket(fast) as fast:
            slow.close()
            fast.sendall(b"request")
            fine += fast.recv(1000) == b"answer"
client = {"role": "client"}
report({"fine": [fine, 2 * SECONDS], "given_up": [given_up, 2 * SECONDS]}, [
    ["benign-racing", "socket_tls_handshakes_total", {**client, "result": "ok"}, SECONDS],
    ["benign-racing", "socket_tls_handshakes_total", {**client, "result": "failed"}, SECONDS]])
