"""A browser with a page that loads pictures, cancels some, and reloads itself."""
from load import *

isolate("benign-browsed")
PAGE = b"""<title>x</title>%s<script>
setTimeout(() => { const it = new AbortController(); fetch('/slow', {signal: it.signal}).catch(() => 0);
    setTimeout(() => it.abort(), 50); }, 300);
setTimeout(() => location.reload(), 1500);
</script>""" % b"".join(b"<img src=/%d.png>" % number for number in range(12))


def answer(path):
    if path == "/":
        return "text/html", PAGE
    if path == "/slow":
        time.sleep(0.2)
        return "text/plain", bytes(1 << 20)
    return "image/png", bytes(5000)


requests = serve(8080, answer)
start(["chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0",
    f"--user-data-dir={HOME}", "http://127.0.0.1:8080/"])
time.sleep(SECONDS)
report({"requests": [requests[0], max(13, SECONDS)]}, [["benign-browsed", "socket_accepts_total", {}, 3]])
