#!/usr/bin/env python3
"""Descriptors that are never closed. Arguments: what kind, the soft limit, and how many a second.
`close-wait`: a server keeps connections that its clients have closed. `connections`: a client keeps
connections. `files`, `pipes`, `events`, `sockets`, `udp`: a server opens these beside its listener."""
import errno, os, resource, socket, time

from common import ARGS, child, rename, say
from shared import listen, pace

KIND, LIMIT, RATE = ARGS[0], int(ARGS[1]), float(ARGS[2])
ADDRESS = ("127.0.0.1", 80)
kept = []


_, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)


def set_limit(limit):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, HARD))


def leak(open_one):
    """Goes on after the limit is reached, as servers do."""
    try:
        kept.append(open_one())
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        say("error")
        time.sleep(1)


def serve(ready):
    """Keeps what it accepts. Closed at the end of the process."""
    s = listen(*ADDRESS[::-1])
    set_limit(LIMIT if KIND == "close-wait" else HARD)
    ready()
    while True:
        leak(lambda: s.accept()[0])


def connect():
    return socket.create_connection(ADDRESS)


def ask():
    """A question that nobody answers."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(b"?", ("127.0.0.1", 53))
    return s


OPEN = {
    "connections": connect,
    "files": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "pipes": os.pipe,
    "events": lambda: os.eventfd(0),
    "sockets": socket.socket,
    "udp": ask,
}
if KIND in ("close-wait", "connections"):
    child("server", serve)
    rename("client")
else:
    rename("server")
    listener = listen(80)
if KIND != "close-wait":
    set_limit(LIMIT)
say("start")
for _ in pace(RATE):
    if KIND == "close-wait":
        connect().close()
    else:
        leak(OPEN[KIND])
