"""What the programs in this folder share. The first argument is the name of the scenario: processes call
themselves `NAME-ROLE` before they have a socket. They print what happens, each with the time of
CLOCK_MONOTONIC: `start` when they begin to misbehave, `error` at the first failure that a finding
foretells, and `end` when they have done all they do."""
import os, sys, time

import shared

NAME, ARGS = sys.argv[1], sys.argv[2:]


def say(word):
    print(word, time.monotonic(), flush=True)


def rename(role):
    shared.rename(f"{NAME}-{role}")


def child(role, work):
    """Runs `work` in a process of its own, and returns its pid when that has called what it is given."""
    ready, write = os.pipe()
    pid = shared.fork(f"{NAME}-{role}", lambda: work(lambda: os.write(write, b"x")))
    os.close(write)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid
