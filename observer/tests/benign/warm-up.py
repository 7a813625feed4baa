"""Two programs warm up to 60 % of their descriptor limit, one at once and one slower and slower, and stay there."""
import math, resource

from load import *

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
isolate("benign-warm")
listener = listen(8080)
TOP = 600


def warm_up(seconds):
    client = connect(8080)
    files = []
    began = time.monotonic()
    while True:
        due = TOP * (1 - math.exp((began - time.monotonic()) / seconds))
        while len(files) < due:
            files.append(open("/dev/null"))
        time.sleep(0.1)


pids = [fork(f"benign-warm-{seconds}", lambda: warm_up(seconds)) for seconds in (2, 15)]
time.sleep(SECONDS)
opened = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
report({"fast": [opened[0], 600 if SECONDS >= 30 else 300], "slow": [opened[1], 500 if SECONDS >= 30 else 200]},
    [["benign-warm-2", "socket_connects_total", {"result": "ok"}, 1], ["benign-warm-15", "socket_connects_total", {"result": "ok"}, 1]])
