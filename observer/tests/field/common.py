"""What the programs in this folder share. Each has a network namespace of its own, and prints what it
knows to be true as its last line (JSON); with `--hold N` it keeps its sockets for N seconds then."""
import sys

from shared import CLONE_NEWNET, ip, isolate, libc, rename

HOLD = float(sys.argv[sys.argv.index("--hold") + 1]) if "--hold" in sys.argv else 0


def counter(name):
    """Of the network namespace that this thread is in: snmp or netstat."""
    for path in ("/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"):
        rows = [line.split() for line in open(path)]
        for names, values in zip(rows[::2], rows[1::2]):
            if name in names:
                return int(values[names.index(name)])


def time_wait():
    return int(open("/proc/thread-self/net/sockstat").read().split("TCP:")[1].split()[5])
