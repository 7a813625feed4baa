"""A monitor asks ten targets once a second; nothing listens at one of them."""
from load import *

isolate("benign-monitor")
for number in range(9):
    serve(8000 + number, lambda path: ("text/plain", b"fine"))
fine = dead = 0
for _ in paced(1):
    for number in range(10):
        try:
            fine += get(8000 + number) > 0
        except ConnectionRefusedError:
            dead += 1
report({"fine": [fine, 4 * SECONDS], "dead": [dead, SECONDS / 2]},
    [["benign-monitor", "socket_connects_total", {"result": "ok"}, fine], ["benign-monitor", "socket_connects_total", {"result": "ECONNREFUSED"}, dead]])
