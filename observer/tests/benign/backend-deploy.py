"""A backend restarts twice a minute, and refuses for two seconds each time."""
from load import *

isolate("benign-retrying")


def backend():
    while True:
        until = time.monotonic() + 25
        listener = listen(8080)
        listener.settimeout(0.5)
        while time.monotonic() < until:
            try:
                with listener.accept()[0] as client:
                    client.sendall(b"hello")
            except TimeoutError:
                pass
        listener.close()
        time.sleep(2)


fork("benign-restart", backend)
wait_for(8080)
fine = refused = 0
for _ in paced(50):
    try:
        with connect(8080) as client:
            fine += client.recv(5) == b"hello"
    except ConnectionRefusedError:
        refused += 1
    except ConnectionResetError:
        pass  # was in the accept queue when the backend ended
report({"fine": [fine, 20 * SECONDS], "refused": [refused, min(1, SECONDS // 30) * 50]},
    [["benign-retrying", "socket_connects_total", {"result": "ok"}, fine], ["benign-retrying", "socket_connects_total", {"result": "ECONNREFUSED"}, 0.99 * refused]])
