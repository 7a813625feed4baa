"""What the programs in this folder share. Nothing is wrong with any of them. Each has a network namespace of its
own, works for `--seconds N`, and prints as its last line (JSON) what it has done and how much that is at least.
On a busy machine they do less, so the least is far below what they try."""
import json, os, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import shared
from shared import isolate, listen, pace

SECONDS = float(sys.argv[sys.argv.index("--seconds") + 1])
BEGAN = time.monotonic()
HOME = tempfile.mkdtemp(prefix="observer-benign-")
children = []


def left():
    return BEGAN + SECONDS - time.monotonic()


def paced(rate):
    """Yields `rate` times a second until the time is over; what is late is left out."""
    return pace(rate, left(), 0.1)


def at_once(*functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def start(command, **options):
    """A program that ends with this one."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(command, **{**quiet, **options})
    children.append(child)
    return child


def fork(comm, function):
    """The same, of a function of this one."""
    children.append(shared.fork(comm, function))
    return children[-1]


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def wait_for(port):
    while True:
        try:
            return connect(port).close()
        except OSError:
            time.sleep(0.05)


def get(port, path="/", keep_alive=False):
    """One request on a connection of its own, which is read to its end. The number of bytes."""
    with connect(port) as client:
        kind = "keep-alive" if keep_alive else "close"
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: {kind}\r\n\r\n".encode())
        size = 0
        while part := client.recv(65536):
            size += len(part)
        return size


def serve(port, answer):
    """A server in this process: `answer(path)` gives the type and the body of a page."""
    requests = [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            requests[0] += 1
            kind, body = answer(self.path)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512

        def handle_error(self, *_):
            pass  # a client that leaves early

    threading.Thread(target=Server(("127.0.0.1", port), Handler).serve_forever, daemon=True).start()
    return requests


def nginx(port, settings="", size=600):
    """Two workers that serve `/` and `/large`. Returns the command by which it is told something."""
    open(f"{HOME}/index.html", "w").write("x" * size)
    open(f"{HOME}/large", "wb").write(bytes(4 << 20))
    open(f"{HOME}/nginx.conf", "w").write(
        f"worker_processes 2; pid {HOME}/pid; error_log /dev/null; daemon off; user root;"
        f"events {{ worker_connections 4096; }} http {{ access_log off; {settings}"
        f"server {{ listen 127.0.0.1:{port} backlog=4096; root {HOME}; }} }}")
    command = ["nginx", "-p", HOME, "-c", f"{HOME}/nginx.conf"]
    start(command)
    wait_for(port)
    return command


def figures(command):
    """What a program prints in the end, or nothing if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout if done.returncode == 0 else ""


def number(text, pattern):
    """The number in what a program printed."""
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def report(work, seen):
    """Ends. `work` has what was done and the least of it, `seen` what the metrics of a name have at least."""
    print(json.dumps({"work": work, "seen": seen}), flush=True)
    sys.stdin.readline()
    for child in children:
        if isinstance(child, int):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        else:
            child.terminate()
            child.wait()
    shutil.rmtree(HOME, ignore_errors=True)
    os._exit(0)
