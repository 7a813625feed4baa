"""nginx reloads its configuration under load of kept connections, which the old workers close."""
from load import *

isolate("benign-reload")
command = nginx(8080)
requests = reloads = 0
for _ in paced(1 / 10):
    load = subprocess.Popen(["wrk", "-t1", "-c20", "-d3", "http://127.0.0.1:8080/"], stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    subprocess.run([*command, "-s", "reload"], stderr=subprocess.DEVNULL)
    reloads += 1
    requests += number(load.communicate()[0], r"(\d+) requests in")
report({"requests": [requests, 20 * SECONDS], "reloads": [reloads, SECONDS // 20]},
    [["wrk", "socket_connects_total", {"result": "ok"}, 20]])
