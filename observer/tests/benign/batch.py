"""A batch job opens 10,000 files and closes them, again and again. It has a connection, so it is watched."""
import resource

from load import *

resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
isolate("benign-batch")
listener = listen(8080)
client = connect(8080)
server = listener.accept()[0]
opened = 0
for _ in paced(1 / 15):
    files = []
    while len(files) < 10_000 and left() > 0:
        files += [open("/dev/null") for _ in range(200)]
        time.sleep(0.1)
    opened += len(files)
    time.sleep(1)
    for one in files:
        one.close()
report({"files": [opened, 5_000]}, [["benign-batch", "socket_connects_total", {"result": "ok"}, 1]])
