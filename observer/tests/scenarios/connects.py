#!/usr/bin/env python3
"""Connects that fail, by the first argument: `dead`: nothing listens. `forks`: the same, by a process each.
`two-of-three`: nothing listens on two of three ports. `black-hole`: SYNs are not answered."""
import os, socket, threading

from common import ARGS, child, rename, say
from shared import listen, pace


def serve(ready):
    s = listen(80)
    ready()
    while True:
        s.accept()[0].close()


def connect(address):
    c = socket.socket()
    try:
        c.connect(address)
        c.recv(1)
    except TimeoutError:
        say("error")
    except ConnectionRefusedError:
        pass
    c.close()


targets = [("127.0.0.1", port) for port in (80, 81, 82)]
if ARGS[0] in ("dead", "forks"):
    targets = targets[1:2]
elif ARGS[0] == "two-of-three":
    child("server", serve)
else:
    targets = [("10.9.0.2", 80)]
rename("client")
say("start")
for i, _ in enumerate(pace(20)):
    target = targets[i % len(targets)]
    if ARGS[0] == "black-hole":
        # Each thread has the name of the one that starts it.
        threading.Thread(target=connect, args=(target,), daemon=True).start()
    elif ARGS[0] == "forks":
        if pid := os.fork():
            os.waitpid(pid, 0)
        else:
            connect(target)
            os._exit(0)
    else:
        connect(target)
