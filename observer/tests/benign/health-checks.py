"""A load balancer checks twenty servers once a second each: it connects, and resets the connection."""
import selectors, struct

from load import *

isolate("benign-checker")


def serve():
    listeners = [listen(8000 + number) for number in range(20)]
    waiting = selectors.DefaultSelector()
    for listener in listeners:
        waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            with key.fileobj.accept()[0] as client:
                try:
                    client.recv(1)
                except OSError:
                    pass


fork("benign-checked", serve)
wait_for(8019)
checks = 0
for _ in paced(20):
    client = connect(8000 + checks % 20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    checks += 1
report({"checks": [checks, 10 * SECONDS]},
    [["benign-checker", "socket_resets_total", {"direction": "sent"}, checks],
     ["benign-checked", "socket_resets_total", {"direction": "received"}, 0.9 * checks]])
