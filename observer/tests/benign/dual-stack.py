"""A client tries IPv6 first, for which there is no route, and succeeds by IPv4."""
import errno

from load import *

isolate("benign-dual")
serve(8080, lambda path: ("text/plain", b"fine"))
fine = unreachable = 0
for _ in paced(20):
    with socket.socket(socket.AF_INET6) as client:
        unreachable += client.connect_ex(("2001:db8::1", 8080)) == errno.ENETUNREACH
    fine += get(8080) > 0
report({"fine": [fine, 8 * SECONDS], "unreachable": [unreachable, 8 * SECONDS]},
    [["benign-dual", "socket_connects_total", {"result": "ok"}, fine], ["benign-dual", "socket_connects_total", {"result": "ENETUNREACH"}, unreachable]])
