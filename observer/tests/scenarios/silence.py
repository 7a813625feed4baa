#!/usr/bin/env python3
"""Connections whose peer stops answering, as behind a NAT that drops idle ones. Argument: `keepalive`, which ends them one after
the other, or `data`, if they are used again one after the other and retransmits end them. The peer is in a network
namespace of its own."""
import os, socket, time

from common import ARGS, child, rename, say
from shared import CLONE_NEWNET, ip, libc, listen, pace

# The connections of these seconds end after so many seconds without an answer, and one more for the probe.
SECONDS, IDLE, RATE = 11, 12, 100
# Connections that are used again in each second.
USED = 10
kept = []
listens, write = os.pipe()


def serve(ready):
    libc.unshare(CLONE_NEWNET)
    ready()
    while "v1" not in [name for _, name in socket.if_nameindex()]:
        time.sleep(0.01)
    ip("link set lo up")
    ip("link set v1 up")
    ip("addr add 10.8.0.2/24 dev v1")
    s = listen(80, "10.8.0.2")
    os.write(write, b"x")
    while True:
        kept.append(s.accept()[0])


server = child("server", serve)
rename("client")
ip(f"link add v0 type veth peer name v1 netns {server}")
ip("link set v0 up")
ip("addr add 10.8.0.1/24 dev v0")
os.read(listens, 1)
for _ in pace(RATE, SECONDS):
    c = socket.create_connection(("10.8.0.2", 80))
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, ARGS == ["keepalive"])
    kept.append(c)
# No frame has the right address any more: no ICMP, no RST, nothing.
ip("neigh replace 10.8.0.2 lladdr 02:00:00:00:00:99 dev v0 nud permanent")
say("start")
if ARGS == ["data"]:
    for c, _ in zip(kept, pace(USED)):
        c.send(b"x")
time.sleep(1000)
