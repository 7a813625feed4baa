"""Downloads from a local server: clones by git, and large files of which curl takes several at once, some in part."""
from load import *

isolate("benign-fetches")
nginx(8080)
repository = f"{HOME}/repository"
git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com"]
subprocess.run([*git, "init", "-q", repository], check=True)
open(f"{repository}/large", "wb").write(os.urandom(1 << 20))
subprocess.run([*git, "-C", repository, "add", "."], check=True)
subprocess.run([*git, "-C", repository, "commit", "-q", "-m", "x"], check=True)
start(["git", "daemon", "--export-all", "--reuseaddr", f"--base-path={HOME}", "--listen=127.0.0.1", "--port=9418"])
wait_for(9418)
clones = files = parts = 0
for _ in paced(1):
    target = f"{HOME}/clone"
    shutil.rmtree(target, ignore_errors=True)
    clones += subprocess.run(["git", "clone", "-q", "git://127.0.0.1/repository", target]).returncode == 0
    whole = figures(["curl", "-s", "-Z", "-w", "%{size_download}\n", *["-o", "/dev/null", "http://127.0.0.1:8080/large"] * 4])
    files += whole.count(str(4 << 20))
    parts += len(figures(["sh", "-c", "curl -s http://127.0.0.1:8080/large | head -c 1000 | tr '\\0' x"])) == 1000
report({"clones": [clones, SECONDS / 10], "files": [files, SECONDS / 3], "parts": [parts, SECONDS / 10]},
    [["git", "socket_connects_total", {"result": "ok"}, clones], ["curl", "socket_connects_total", {"result": "ok"}, files // 4]])
