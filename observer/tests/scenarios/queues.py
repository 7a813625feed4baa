#!/usr/bin/env python3
"""Accept queues that fill, by the first argument. `slow`: a server accepts two connections a second. `stuck`:
one of eight workers with SO_REUSEPORT does not accept. `master`: the same where a master made all sockets, as
nginx does. `inherited`: the server has ended, and a program that
it had started has its listener and does not accept. `abort`: connections come in bursts of twice the queue, which
tcp_abort_on_overflow resets. `hung`: the server does not accept any more, and each client gives up after five seconds, long
before the queue is full."""
import os, socket, time

from common import ARGS, NAME, child, rename, say
from shared import fork, listen, pace


def slow(ready):
    s = listen(80, backlog=16)
    ready()
    while True:
        s.accept()[0].close()
        time.sleep(0.5)


def worker(is_stuck):
    def work(ready):
        s = listen(80, backlog=16, reuseport=True)
        ready()
        while True:
            if is_stuck:
                time.sleep(1)
            else:
                s.accept()[0].close()

    return work


def accept(s):
    while True:
        s.accept()[0].close()


def master(ready):
    sockets = [listen(80, backlog=16, reuseport=True) for _ in range(8)]
    for i, s in enumerate(sockets):
        if i != 5:
            fork(f"{NAME}-server", lambda: accept(s))
    ready()
    time.sleep(1000)


def inherited(ready):
    s = listen(80, backlog=16)
    s.set_inheritable(True)
    if os.fork():
        os._exit(0)
    rename("helper")
    ready()
    time.sleep(1000)


def bursts(ready):
    # A connection enters the queue with its first data, so that SYNs are not dropped before.
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    s.bind(("127.0.0.1", 80))
    s.listen(16)
    ready()
    while True:
        # Soon after a burst: a full queue drops the SYNs of the next one.
        time.sleep(0.02)
        s.setblocking(False)
        try:
            while True:
                c = s.accept()[0]
                c.recv(100)
                c.close()
        except BlockingIOError:
            pass


def burst():
    clients = [socket.create_connection(("127.0.0.1", 80)) for _ in range(34)]
    for c in clients:
        try:
            c.sendall(b"request")
        except OSError:
            pass
    return clients


def hung(ready):
    s = listen(80)
    ready()
    for _ in range(10):
        s.accept()[0].close()
    time.sleep(1000)


if ARGS[0] == "hung":
    child("server", hung)
    rename("client")
    for _ in range(10):
        socket.create_connection(("127.0.0.1", 80)).close()
    say("start")
    clients = []
    for _ in pace(2):
        c = socket.create_connection(("127.0.0.1", 80))
        c.sendall(b"request")
        clients.append(c)
        if len(clients) > 10:
            clients.pop(0).close()
if ARGS[0] == "abort":
    child("server", bursts)
    rename("client")
    say("start")
    while True:
        clients = burst()
        # Right after a burst the queue is still full, and would drop the SYNs of the next one.
        time.sleep(0.1)
if ARGS[0] == "slow":
    child("server", slow)
elif ARGS[0] == "stuck":
    for i in range(8):
        child("server", worker(i == 5))
elif ARGS[0] == "master":
    child("server", master)
else:
    child("server", inherited)
    # The observer looks once a minute whose the sockets of an ended process are.
    time.sleep(62)
rename("client")
say("start")
clients = []
for _ in pace(40):
    c = socket.socket()
    c.setblocking(False)
    c.connect_ex(("127.0.0.1", 80))
    clients.append(c)
    if len(clients) > 400:
        clients.pop(0).close()
