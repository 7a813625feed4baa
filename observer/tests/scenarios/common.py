"""What the programs in this folder share. The first argument is the name of the scenario: processes call
themselves `NAME-ROLE` before they have a socket. They print what happens, each with the time of
CLOCK_MONOTONIC: `start` when they begin to misbehave, `error` at the first failure that a finding
foretells, and `end` when they have done all they do."""
import ctypes, os, socket, sys, time

NAME, ARGS = sys.argv[1], sys.argv[2:]
libc = ctypes.CDLL(None, use_errno=True)


def say(word):
    print(word, time.monotonic(), flush=True)


def rename(role):
    libc.prctl(15, f"{NAME}-{role}".encode(), 0, 0, 0)  # PR_SET_NAME


def child(role, work):
    """Runs `work` in a process of its own, and returns its pid when that has called what it is given."""
    ready, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        rename(role)
        work(lambda: os.write(write, b"x"))
        os._exit(0)
    os.close(write)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


def listen(port, address="127.0.0.1", backlog=4096, reuseport=False):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if reuseport else socket.SO_REUSEADDR, 1)
    s.bind((address, port))
    s.listen(backlog)
    return s


def pace(rate):
    """Yields the seconds since the first time, `rate` times a second: a number, or a function of that time."""
    start = due = time.monotonic()
    while True:
        yield due - start
        due += 1 / (rate(due - start) if callable(rate) else rate)
        time.sleep(max(0, due - time.monotonic()))
