#!/usr/bin/env python3
"""nmap looks for open ports: 5,000 a second or one a second, by the first argument."""
import os, shutil, subprocess, tempfile

from common import ARGS, NAME, child, say
from shared import listen


def serve(ready):
    s = listen(80, "10.9.0.1")
    ready()
    while True:
        s.accept()[0].close()


child("server", serve)
with tempfile.TemporaryDirectory() as folder:
    # A process is named after the file.
    scanner = os.path.join(folder, f"{NAME}-scanner")
    os.symlink(shutil.which("nmap"), scanner)
    say("start")
    options = {"fast": "--min-rate 5000 -p-", "slow": "--max-rate 1 --max-retries 0 -p 1000-1100"}
    options = f"-n -Pn -sS -S 10.9.0.2 -e lo {options[ARGS[0]]} 10.9.0.1"
    subprocess.run([scanner, *options.split()], stdout=subprocess.DEVNULL, check=True)
say("end")
