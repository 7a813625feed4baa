"""Runs of ab, wrk and redis-benchmark, with pauses: they end while answers are under way."""
from load import *

isolate("benign-bench")
nginx(8080)
start(["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", HOME])
wait_for(6379)
RUNS = {
    "ab": (["ab", "-q", "-n", "3000", "-c", "20", "http://127.0.0.1:8080/"], "Complete requests:"),
    "ab -k": (["ab", "-q", "-k", "-n", "5000", "-c", "20", "http://127.0.0.1:8080/"], "Complete requests:"),
    "wrk": (["wrk", "-t1", "-c100", "-d3", "http://127.0.0.1:8080/"], " requests in "),
    "redis": (["redis-benchmark", "-q", "-c", "50", "-n", "3000", "-t", "get,set"], "requests per second"),
}
runs = dict.fromkeys(RUNS, 0)
for _ in paced(1):
    for name, (command, sign) in RUNS.items():
        if left() > 0:
            runs[name] += sign in figures(command)
            time.sleep(1)
report({name: [count, 1] for name, count in runs.items()},
    [["ab", "socket_connects_total", {"result": "ok"}, 3000 * runs["ab"]],
     ["redis-benchmark", "socket_connects_total", {"result": "ok"}, 50 * runs["redis"]]])
