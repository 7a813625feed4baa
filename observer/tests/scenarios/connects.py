#!/usr/bin/env python3
"""Connects that fail, by the first argument: `dead`: nothing listens. `elsewhere`: curl connects to an address at which
http.server does not listen. `forks`: the same, by a process each.
`two-of-three`: nothing listens on two of three ports. `black-hole`: SYNs are not answered. `reject`: a firewall answers
with ICMP port unreachable."""
import os, runpy, shutil, socket, struct, subprocess, sys, tempfile, threading

from common import ARGS, NAME, child, rename, say
from shared import listen, pace


def serve(ready):
    s = listen(80)
    ready()
    while True:
        s.accept()[0].close()


def http_server(ready):
    ready()
    sys.argv[1:] = ["80", "--bind", "127.0.0.1"]
    runpy.run_module("http.server", run_name="__main__")


def curl():
    # A process is named after its file.
    named = os.path.join(tempfile.gettempdir(), f"{NAME}-client")
    if not os.path.exists(named):
        os.symlink(shutil.which("curl"), named)
    subprocess.run([named, "--silent", "http://10.9.0.1/"])


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


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


def firewall(ready):
    """What `iptables -j REJECT` does, at the other end of the link."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    link.bind(("v1", 0x0800))
    ready()
    while True:
        frame = link.recv(2000)
        packet = frame[14:]
        if len(packet) < 40 or packet[9] != socket.IPPROTO_TCP:
            continue
        quoted = packet[:28]
        icmp = b"\x03\x03" + checksum(b"\x03\x03" + bytes(6) + quoted) + bytes(4) + quoted
        head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(icmp), 0, 0, 64, socket.IPPROTO_ICMP)
        ends = packet[16:20] + packet[12:16]
        head += checksum(head + bytes(2) + ends) + ends
        link.send(frame[6:12] + frame[:6] + frame[12:14] + head + icmp)


targets = [("127.0.0.1", port) for port in (80, 81, 82)]
if ARGS[0] in ("dead", "forks"):
    targets = targets[1:2]
elif ARGS[0] == "two-of-three":
    child("server", serve)
elif ARGS[0] == "elsewhere":
    child("server", http_server)
else:
    targets = [("10.9.0.2", 80)]
if ARGS[0] == "reject":
    child("firewall", firewall)
rename("client")
say("start")
for i, _ in enumerate(pace(20)):
    target = targets[i % len(targets)]
    if ARGS[0] == "black-hole":
        # Each thread has the name of the one that starts it.
        threading.Thread(target=connect, args=(target,), daemon=True).start()
    elif ARGS[0] == "elsewhere":
        curl()
    elif ARGS[0] == "forks":
        if pid := os.fork():
            os.waitpid(pid, 0)
        else:
            connect(target)
            os._exit(0)
    else:
        connect(target)
