"""nginx without keep-alive at a steady rate of 2,000 connections a second: TIME_WAIT is the server's."""
from load import *

isolate("benign-steady")
nginx(8080, "keepalive_timeout 0;")
answers = 0
for _ in paced(4):
    answers += number(figures(["ab", "-q", "-n", "500", "-c", "10", "http://127.0.0.1:8080/"]), r"Complete requests: +(\d+)")
report({"answers": [answers, 100 * SECONDS]},
    [["ab", "socket_connects_total", {"result": "ok"}, answers],
     ["nginx", "socket_time_wait_entered_total", {}, 0.9 * answers]])
