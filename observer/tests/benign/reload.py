"""nginx reloads its configuration under load of kept connections, which the old workers close."""
from load import *

isolate("benign-reload")
command = nginx(8080)
requests, reloads = [0], [0]


def ask():
    while left() > 3:
        for line in figures(["wrk", "-t1", "-c20", f"-d{int(min(left() - 1, 20))}", "http://127.0.0.1:8080/"]).splitlines():
            if " requests in " in line:
                requests[0] += int(line.split()[0])
        time.sleep(min(5, max(0, left())))


def reload():
    for _ in paced(1 / 10):
        subprocess.run([*command, "-s", "reload"], stderr=subprocess.DEVNULL)
        reloads[0] += 1


at_once(ask, reload)
report({"requests": [requests[0], 20 * SECONDS], "reloads": [reloads[0], SECONDS // 20]},
    [["wrk", "socket_connects_total", {"result": "ok"}, 20]])
