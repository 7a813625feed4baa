"""A pool of idle connections, some of which the server closes after a while. The pool notices only when it uses them."""
from load import *

isolate("benign-idle")
listener = listen(8080)


def server():
    accepted = [listener.accept()[0] for _ in range(200)]
    time.sleep(SECONDS / 4)
    for one in accepted[:15]:
        one.close()
    time.sleep(2 * SECONDS + 600)


fork("benign-idle-of", server)
listener.close()
pool = [connect(8080) for _ in range(200)]
time.sleep(SECONDS)
closed = 0
for one in pool:
    one.setblocking(False)
    try:
        closed += one.recv(1) == b""
    except BlockingIOError:
        pass
report({"pool": [len(pool), 200], "closed": [closed, 15]}, [["benign-idle", "socket_connections", {"state": "ESTABLISHED"}, 185],
    ["benign-idle", "socket_connections", {"state": "CLOSE_WAIT"}, 15]])
