#!/usr/bin/env python3
"""Again and again a pool of connections of QUIC with early data, by the argument after the version of quic-go: what the client does
when a restarted server rejects it (see `../quic/zrtt.go`). The program is that of OBSERVER_TEST_QUIC."""
import collections, os, shutil, subprocess, tempfile, time

from common import ARGS, NAME, say

# The version is for the test, which builds the program.
_, WAY, CONNECTIONS = ARGS
ADDRESS = "127.0.0.1:4433"


class Program:
    def __init__(self, role, *arguments):
        # A process is named after its file.
        command = [f"{folder}/{NAME}-{role}", role, ADDRESS, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seen = collections.Counter()

    def expect(self, word, times=1):
        """Reads until so many lines have begun with the word."""
        while self.seen[word] < times:
            line = self.process.stdout.readline()
            assert line, f"{NAME}: it ended before {word}"
            self.seen[line.split()[0].rstrip(":")] += 1

    def go(self, times=1):
        self.process.stdin.write("\n" * times)
        self.process.stdin.flush()


def serve():
    server = Program("server")
    server.expect("listening")
    return server


def round_of():
    """Connections that have tickets; a restart of the server, or its end; and what they do then. The client goes on running."""
    global server
    client = Program("client", WAY, CONNECTIONS)
    client.expect("restart", count)
    server.process.kill()
    server.process.wait()
    client.go(count)
    client.expect("sent", count)
    if WAY == "give-up":
        # One after the other, as where each waits for an answer.
        for _ in range(count):
            client.go()
            time.sleep(0.4)
    else:
        server = serve()
    if WAY == "forget":
        client.expect("done", count)
        client.go(count)
    client.expect("closed" if WAY in ("give-up", "forget") else "done", count)
    if WAY == "give-up":
        server = serve()
    return client


with tempfile.TemporaryDirectory() as folder:
    shutil.copy(os.environ["OBSERVER_TEST_QUIC"], f"{folder}/{NAME}-server")
    os.link(f"{folder}/{NAME}-server", f"{folder}/{NAME}-client")
    count = int(CONNECTIONS)
    server = serve()
    say("start")
    # An observer that has just started looks at all programs of the host one after the other, so the first rounds may be lost on it.
    for _ in range(8):
        client = round_of()
        time.sleep(4)
        client.process.kill()
        client.process.wait()
    say("end")
    time.sleep(1000)
