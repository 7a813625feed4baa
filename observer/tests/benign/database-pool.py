"""A database, and an application that keeps a pool of connections to it, some of which it replaces."""
import queue, random

from load import *

isolate("benign-pool")
start(["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", HOME])
wait_for(6379)
pool = queue.Queue()
opened = [0]


def client():
    opened[0] += 1
    return connect(6379)


for _ in range(32):
    pool.put(client())
asked = [0] * 8


def ask(worker):
    def run():
        for _ in paced(30):
            one = pool.get()
            one.sendall(b"INCR x\r\n")
            asked[worker] += one.recv(100).startswith(b":")
            if random.random() < 0.01:
                one.close()
                one = client()
            pool.put(one)
    return run


at_once(*map(ask, range(len(asked))))
report({"answers": [sum(asked), 50 * SECONDS]}, [["benign-pool", "socket_connects_total", {"result": "ok"}, opened[0]],
    ["redis-server", "socket_accepts_total", {}, opened[0]]])
