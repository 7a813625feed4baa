#!/usr/bin/env python3
"""A client that opens a connection for each request, reads the answer and closes first, so that each leaves a
port in TIME_WAIT. Arguments: connections per second; `connect`, or `bind` if it calls bind() before; and
seconds after which it stops, if no error comes."""
import errno, socket

from common import ARGS, child, rename, say
from shared import listen, pace

RATE, CALL, SECONDS = float(ARGS[0]), ARGS[1], float(ARGS[2])
# Not in 127/8, where connect() may take a port in TIME_WAIT again.
ADDRESS = ("10.9.0.1", 80)


def serve(ready):
    s = listen(ADDRESS[1], ADDRESS[0])
    ready()
    while True:
        c = s.accept()[0]
        c.sendall(b"x")
        while c.recv(100):
            pass
        c.close()


def request():
    c = socket.socket()
    try:
        if CALL == "bind":
            c.bind((ADDRESS[0], 0))
        c.connect(ADDRESS)
    except OSError as error:
        assert error.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE)
        say("error")
    else:
        c.recv(1)
        c.shutdown(socket.SHUT_WR)
        while c.recv(100):
            pass
    c.close()


child("server", serve)
rename("client")
say("start")
for _ in pace(RATE, SECONDS):
    request()
say("end")
