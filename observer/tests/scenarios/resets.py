#!/usr/bin/env python3
"""Storms of RSTs, by the first argument: `half-close`: a client shuts down and closes before it has read the answer, in
more and more of its requests. `half-read`: a client shuts down, waits for the answer and does not read it. `linger`: a server closes with SO_LINGER {1, 0}. `acks`: a listener gets ACKs of
connections that it does not know."""
import os, select, socket, struct, threading

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


def answer_and_wait(c):
    c.recv(100)
    c.sendall(b"answer")
    ended = select.poll()
    ended.register(c, 0)
    ended.poll(1000)
    c.close()


def reset(c):
    c.recv(100)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()


WORK = {"half-close": answer, "half-read": answer_and_wait}


def serve(ready):
    s = listen(*ADDRESS[::-1])
    ready()
    while True:
        WORK.get(ARGS[0], reset)(s.accept()[0])


def request(misuse):
    c = socket.create_connection(ADDRESS)
    c.sendall(b"request")
    if ARGS[0].startswith("half-"):
        c.shutdown(socket.SHUT_WR)
    if ARGS[0] == "half-read":
        c.recv(100, socket.MSG_PEEK)
        misuse = True
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


def acks():
    """The kernel fills in the source address."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    raw.bind(("127.0.0.2", 0))
    for _ in pace(100):
        source = 1024 + int.from_bytes(os.urandom(2)) % 60000
        head = struct.pack("!HHIIBBHHH", source, 80, 1, 1, 5 << 4, 0x10, 1000, 0, 0)
        pseudo = socket.inet_aton("127.0.0.2") + socket.inet_aton("127.0.0.1") + struct.pack("!HH", 6, len(head))
        total = sum(struct.unpack("!16H", pseudo + head))
        total = (total & 0xFFFF) + (total >> 16)
        check = ~(total + (total >> 16)) & 0xFFFF
        raw.sendto(head[:16] + struct.pack("!H", check) + head[18:], ADDRESS)


child("server", serve)
rename("client")
if ARGS[0] == "acks":
    say("start")
    acks()
if ARGS[0] == "half-close":
    threading.Timer(3, misuse).start()
    for _ in pace(20):
        request(False)
else:
    say("start")
    for _ in pace(100):
        request(False)
