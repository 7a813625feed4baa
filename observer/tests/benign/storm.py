"""As many healthy connections a second as the machine gives, ten seconds of each twenty. In turns: nginx closes the
connections of wrk; a client reads the answer and closes first. Its ports are in TIME_WAIT, and on loopback the kernel
takes them again (net.ipv4.tcp_tw_reuse)."""
from load import *

isolate("benign-storm")
nginx(8080, "keepalive_timeout 0;")
listener = listen(8081)


def serve():
    while True:
        with listener.accept()[0] as client:
            client.sendall(b"hello")
            client.recv(1)


for _ in range(2):
    fork("benign-stormed", serve)
listener.close()
WRK = ["wrk", "-t1", "-c50", "-d10", "-H", "Connection: close", "http://127.0.0.1:8080/"]
by_wrk = connections = most = 0
for turn, _ in enumerate(paced(1 / 20)):
    if turn % 2 == 0:
        stormed = number(figures(WRK), r"(\d+) requests in")
        by_wrk += stormed
        most = max(most, stormed / 10)
        continue
    until = min(BEGAN + SECONDS, time.monotonic() + 10)
    while time.monotonic() < until:
        with connect(8081) as client:
            connections += client.recv(5) == b"hello"
report({"connections": [connections, 20 * SECONDS], "connections of wrk": [by_wrk, 100 * SECONDS], "of them in the best second": [round(most), 1000]},
    [["benign-storm", "socket_connects_total", {"result": "ok"}, connections], ["benign-stormed", "socket_accepts_total", {}, connections],
     ["nginx", "socket_accepts_total", {}, by_wrk]])
