"""What the programs in `benign`, `field` and `scenarios` share. PYTHONPATH has this folder."""
import ctypes, math, os, socket, subprocess, sys, time

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def rename(comm):
    """Names this thread, and so what it starts."""
    libc.prctl(15, comm.encode(), 0, 0, 0)  # PR_SET_NAME


def ip(line):
    subprocess.run(["ip", *line.split()], check=True)


def isolate(comm):
    """Names this process before it has a socket, and moves it to a network namespace of its own."""
    rename(comm)
    if libc.unshare(CLONE_NEWNET):
        sys.exit("needs root")
    ip("link set lo up")


def fork(comm, work):
    """Runs `work` in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            rename(comm)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def listen(port, address="127.0.0.1", backlog=4096, reuseport=False):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if reuseport else socket.SO_REUSEADDR, 1)
    s.bind((address, port))
    s.listen(backlog)
    return s


def pace(rate, seconds=math.inf, late=math.inf):
    """Yields the time since the start, `rate` times a second for `seconds`. The rate is a number, or a function of
    that time. What is later than `late` seconds is left out."""
    start = due = time.monotonic()
    while time.monotonic() < start + seconds:
        yield due - start
        due = max(due + 1 / (rate(due - start) if callable(rate) else rate), time.monotonic() - late)
        time.sleep(max(0, min(due, start + seconds) - time.monotonic()))
