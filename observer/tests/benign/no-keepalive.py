"""nginx without keep-alive at a steady rate of 2,000 connections a second: TIME_WAIT is the server's."""
from load import *

isolate("benign-steady")
nginx(8080, "keepalive_timeout 0;")
answers = [0] * 4


def ask(number):
    def run():
        for _ in paced(500):
            answers[number] += get(8080, keep_alive=True) > 600
        report_of(number)
    return run


def report_of(number):
    open(f"{HOME}/answers-{number}", "w").write(str(answers[number]))
    os._exit(0)


pids = [fork("benign-steady", ask(number)) for number in range(len(answers))]
for pid in pids:
    os.waitpid(pid, 0)
    children.remove(pid)
answers = [int(open(f"{HOME}/answers-{number}").read()) for number in range(len(answers))]
report({"answers": [sum(answers), 100 * SECONDS]},
    [["benign-steady", "socket_connects_total", {"result": "ok"}, sum(answers)],
     ["nginx", "socket_time_wait_entered_total", {}, 0.9 * sum(answers)]])
