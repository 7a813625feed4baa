#!/usr/bin/env python3
"""Storms of RSTs, by the first argument: `half-close`: a client shuts down and closes before it has read the answer, in
more and more of its requests. `linger`: a server closes with SO_LINGER {1, 0}."""
import socket, struct, threading

from common import ARGS, child, rename, say
from shared import listen, pace

ADDRESS = ("127.0.0.1", 80)


def answer(c):
    try:
        while c.recv(100):
            pass
        for _ in range(2):
            c.sendall(b"answer")
    except OSError:
        pass
    c.close()


def reset(c):
    c.recv(100)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()


def serve(ready):
    s = listen(*ADDRESS[::-1])
    ready()
    while True:
        (answer if ARGS[0] == "half-close" else reset)(s.accept()[0])


def request(misuse):
    c = socket.create_connection(ADDRESS)
    c.sendall(b"request")
    if ARGS[0] == "half-close":
        c.shutdown(socket.SHUT_WR)
    try:
        while not misuse and c.recv(100):
            pass
    except ConnectionResetError:
        pass
    c.close()


def misuse():
    say("start")
    for _ in pace(lambda second: min(120, 10 + 15 * second)):
        request(True)


child("server", serve)
rename("client")
if ARGS[0] == "half-close":
    threading.Timer(3, misuse).start()
    for _ in pace(20):
        request(False)
else:
    say("start")
    for _ in pace(100):
        request(False)
