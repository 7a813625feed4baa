"""Measures one Prometheus that scrapes many hosts. Each is simulated: it serves the metrics of a running daemon, whose
counters go on as fast as they do there. Units of containers have another id on each host."""
import argparse, gzip, itertools, json, os, re, shutil, signal, subprocess, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote
from urllib.request import urlopen

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--hosts", type=int, default=1000)
parser.add_argument("--minutes", type=float, default=10)
parser.add_argument("--interval", type=int, default=30, help="seconds between two scrapes of a host, and evaluations")
parser.add_argument("--learn", type=float, default=60, help="seconds over which the daemon's counters are compared")
parser.add_argument("--daemon", default="http://127.0.0.1:9963/metrics")
parser.add_argument("--prometheus", default="/usr/share/observer/prometheus", help="folder of prometheus.yml and rules")
options = parser.parse_args()


def series(text):
    """Name with labels, value, and whether it is a counter, of each series."""
    counters, found = set(), {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if kind in ("counter", "histogram"):
                counters.update(name + suffix for suffix in ("", "_bucket", "_sum", "_count"))
        elif line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value), name.split("{")[0] in counters
    return found


def fetch(url):
    with urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def learn():
    """Text with gaps for ids of containers between values that change, and each such value: start, and growth or change."""
    first = series(fetch(options.daemon))
    began = time.monotonic()
    time.sleep(options.learn)
    last, took = series(fetch(options.daemon)), time.monotonic() - began
    texts, values = [""], []
    for name, (value, is_counter) in last.items():
        change = value - first.get(name, (value,))[0]
        texts[-1] += re.sub(r'(unit="[a-z-]+:)[0-9a-f]{8}', r"\1%(id)s", name.replace("%", "%%")) + " "
        if change:
            values.append((value, max(change, 0) / took if is_counter else change, is_counter))
            texts.append("\n")
        else:
            texts[-1] += shown(value) + "\n"
    print(f"{len(last)} series, of which {len(values)} change")
    return texts, values


def shown(value):
    return repr(value) if value % 1 else str(int(value))


texts, values = learn()
began = time.monotonic()
turns = itertools.count()


def page(host):
    # Hosts do not count the same.
    age, is_even = time.monotonic() - began + host, next(turns) % 2

    def now(value, change, is_counter):
        number = value + (change * age if is_counter else change * is_even)
        return shown(number if value % 1 else int(number))

    text = "".join(map("{}{}".format, texts, itertools.chain(itertools.starmap(now, values), [""])))
    return text % {"id": f"{host:08x}"}


class Host(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        body = gzip.compress(page(int(self.path[1:])).encode(), 1)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Hosts(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, *_):
        """A host that does not answer is counted by Prometheus."""


def configuration(port):
    with open(options.prometheus + "/prometheus.yml") as file:
        text = file.read()
    target = "      - targets: [127.0.0.1:%d]\n        labels: {instance: host-%d, __metrics_path__: /%d}\n"
    hosts = "".join(target % (port, host, host) for host in range(options.hosts))
    for old, new in [
        ("interval: 15s", f"interval: {options.interval}s"),
        ("rules/observer", f"{os.path.abspath(options.prometheus)}/rules/observer"),
        # What it finds there is not to be told to anybody.
        ("[127.0.0.1:9093]", "[]"),
        ("      - targets: [127.0.0.1:9963]\n", hosts),
    ]:
        assert old in text, f"no {old!r} in prometheus.yml"
        text = text.replace(old, new)
    return text


def start(directory, port):
    """Prometheus, and its address."""
    with open(directory + "/prometheus.yml", "w") as file:
        file.write(configuration(port))
    command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    command.append("--web.listen-address=127.0.0.1:0")
    prometheus = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in prometheus.stderr:
        if found := re.search(r'msg="Listening on" address=(\S+)', line):
            # It would wait where nobody reads.
            threading.Thread(target=lambda: list(prometheus.stderr), daemon=True).start()
            return prometheus, "http://" + found[1]
    sys.exit(f"Prometheus ended with {prometheus.wait()}")


def report(address, earlier=None):
    """Prints what Prometheus says of itself. Returns the time, its counters, and whether it keeps up."""
    own = {name: value for name, (value, _) in series(fetch(address + "/metrics")).items()}

    def query(text):
        answer = json.loads(fetch(f"{address}/api/v1/query?query={quote(text)}"))["data"]["result"]
        return float(answer[0]["value"][1]) if answer else 0

    def of(metric):
        """The values of a metric, by its last label."""
        return {name[:-2].rsplit('"', 1)[-1].rsplit(";", 1)[-1]: value
                for name, value in own.items() if name.split("{")[0] == metric}

    up, recorded = query('count(up{job="observer"} == 1)'), query('count({__name__=~"comm_unit:.*"})')
    late = sum(sum(of(f"prometheus_rule_{it}_total").values()) for it in ("group_iterations_missed", "evaluation_failures"))
    samples = sum(of("prometheus_tsdb_head_samples_appended_total").values())
    now = time.monotonic(), own["process_cpu_seconds_total"], samples, late
    print(f"{(now[0] - began) / 60:.1f} min: {up:.0f} hosts; {own['prometheus_tsdb_head_series']:.0f} series, "
          f"{recorded:.0f} recorded; {own['process_resident_memory_bytes'] / 2**30:.2f} GiB", end="")
    if earlier:
        seconds, cpu, samples, late = (new - old for new, old in zip(now, earlier))
        print(f"; {samples / seconds:.0f} samples/s, {cpu / seconds:.2f} processors", end="")
    took = ", ".join(f"{name} {value:.2f} s" for name, value in of("prometheus_rule_group_last_duration_seconds").items())
    print(f"; rules: {took}; slowest scrape {query('max(scrape_duration_seconds)'):.2f} s; evaluations missed or failed: {late:.0f}",
          flush=True)
    return now, up == options.hosts and recorded > 0 and late == 0


def main():
    server = Hosts(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    directory = tempfile.mkdtemp(prefix="observer-fleet-")
    prometheus = None
    try:
        prometheus, address = start(directory, server.server_port)
        end = time.monotonic() + 60 * options.minutes
        # Each host is scraped, and the rules are evaluated twice.
        time.sleep(3 * options.interval)
        earlier, keeps_up = report(address)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(60, left))
            earlier, keeps_up = report(address, earlier)
    finally:
        if prometheus:
            prometheus.kill()
            prometheus.wait()
        shutil.rmtree(directory)
    sys.exit(0 if keeps_up else 1)


# `finally` is for this signal, too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
main()
