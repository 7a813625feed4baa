"""gunicorn replaces all its workers under load, twice a minute."""
from load import *

isolate("benign-deploy")
open(f"{HOME}/page_of_test.py", "w").write(
    "def page(environ, start):\n start('200 OK', [('Content-Length', '5')])\n return [b'hello']\n")
server = start(["gunicorn", "-w", "4", "-b", "127.0.0.1:8080", "--chdir", HOME, "--log-file", f"{HOME}/log",
    "page_of_test:page"])
wait_for(8080)
get(8080)
answers, deploys = [0] * 4, [0]


def ask(worker):
    def run():
        for _ in paced(25):
            try:
                answers[worker] += get(8080) > 0
            except OSError:
                pass
    return run


def deploy():
    time.sleep(10)
    for _ in paced(1 / 25):
        server.send_signal(signal.SIGHUP)
        deploys[0] += 1


at_once(deploy, *map(ask, range(len(answers))))
if server.poll() is not None:
    sys.exit("gunicorn ended: " + open(f"{HOME}/log").read())
report({"answers": [sum(answers), 15 * SECONDS], "deploys": [deploys[0], SECONDS // 40]},
    [["gunicorn", "socket_accepts_total", {}, sum(answers)]])
