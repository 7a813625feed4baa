"""As many healthy connections a second as the machine gives, in turns: the client reads the answer and closes first.
Its ports are in TIME_WAIT, and on loopback the kernel takes them again (net.ipv4.tcp_tw_reuse)."""
from load import *

isolate("benign-storm")
listener = listen(8080)


def serve():
    while True:
        with listener.accept()[0] as client:
            client.sendall(b"hello")
            client.recv(1)


for _ in range(2):
    fork("benign-stormed", serve)
listener.close()
connections = 0
for _ in paced(1 / 20):
    until = min(BEGAN + SECONDS, time.monotonic() + 10)
    while time.monotonic() < until:
        with connect(8080) as client:
            connections += client.recv(5) == b"hello"
report({"connections": [connections, 50 * SECONDS]},
    [["benign-storm", "socket_connects_total", {"result": "ok"}, connections], ["benign-stormed", "socket_accepts_total", {}, connections]])
