"""A shell script that calls curl in a loop."""
from load import *

isolate("benign-curls")
nginx(8080)
fine = 0
for _ in paced(10):
    fine += len(figures(["curl", "-s", "http://127.0.0.1:8080/"])) == 600
report({"fine": [fine, 2 * SECONDS]}, [["curl", "socket_connects_total", {"result": "ok"}, fine]])
