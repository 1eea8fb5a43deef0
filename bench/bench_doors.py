"""Many short-lived processes, one root: how CNI and netavark callers, two hundred at once, could share what is one process's.

    python bench/bench_doors.py [--callers N] [--rounds N]

Each caller attaches one container: a sandbox, an endpoint on a network that is there, a join.

    in turn     each takes a lock, opens the Controller on the root, does it, closes
    server      one process has the Controller; callers (python -I -S) ask it over a Unix socket (netlib/ipc.py)
    on demand   the same callers, and nobody serves yet: who finds that out first starts the server

The ways take turns within a round.  Shown are seconds, min / median / max over the rounds: until the last caller has its
answer; for one caller, the median and the slowest of a round; and processor time of all, the server included.  "alone" is
one caller on a quiet machine: what no way of locking or sharing the store could save "in turn", because it is the caller's own.
Runs in namespaces of its own (root, or a user namespace).
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynet
from pynet.plugins.isolation import isolate

TOP = str(Path(pynet.__file__).parents[1])

ATTACH = """
def attach(controller, name):
    endpoint = controller.network("web").create_endpoint(name)
    endpoint.join(controller.create_sandbox(name))
"""
IN_TURN = (
    ATTACH
    + """
import fcntl, os, sys
root, run, name = sys.argv[1:]
fd = os.open(root + ".turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
fcntl.flock(fd, fcntl.LOCK_EX)
from pynet.netlib.controller import Controller
with Controller(root, run) as controller:
    attach(controller, name)
"""
)
SERVER = (
    ATTACH
    + """
import os, signal, socket, sys, threading
from pynet.netlib.controller import Controller
from pynet.netlib.ipc import Channel
root, run, path, ready = sys.argv[1:]
controller = Controller(root, run)
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen(512)
os.write(int(ready), b"1")
os.close(int(ready))

def serve(sock):
    channel = Channel(sock)
    message, _ = channel.receive()
    try:
        attach(controller, message["name"])
        channel.send({"ok": True})
    except BaseException as error:
        channel.send({"error": str(error)})
    channel.close()

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    sock, _ = listening.accept()
    threading.Thread(target=serve, args=(sock,), daemon=True).start()
"""
)
CLIENT = """
import fcntl, os, socket, sys
top, root, run, path, name, server = sys.argv[1:]
sys.path.insert(0, top)
from pynet.netlib.ipc import Channel

def connected():
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    return sock

sock = connected()
if sock is None:
    fd = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    sock = connected()
    if sock is None:
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        os.posix_spawn(sys.executable, [sys.executable, "-I", "-c", server, root, run, path, str(writing)], os.environ)
        os.close(writing)
        if os.read(reading, 1) != b"1":
            sys.exit("the server did not start")
        sock = connected()
    os.close(fd)
channel = Channel(sock)
channel.send({"name": name})
answer = channel.receive()
if answer is None or not answer[0].get("ok"):
    sys.exit(f"no: {answer}")
"""


def prepared(root: str, run: str) -> None:
    """A root with one network, left by its process, as a host has it when callers come."""
    code = (
        "import sys; from pynet.netlib.controller import Controller\n"
        "with Controller(*sys.argv[1:]) as c: c.create_network('web', subnet='10.99.0.0/16')"
    )
    subprocess.run([sys.executable, "-I", "-c", code, root, run], check=True)


def cleared(root: str, run: str) -> None:
    code = (
        "import sys; from pynet.netlib.controller import Controller\n"
        "with Controller(*sys.argv[1:]) as c:\n"
        "    found = len(c.sandboxes())\n"
        "    for sandbox in c.sandboxes(): sandbox.delete()\n"
        "    for network in c.networks():\n"
        "        for endpoint in network.endpoints(): endpoint.delete()\n"
        "        network.delete()\n"
        "    c.actions.firewall.destroy()\n"
        "print(found)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, root, run], check=True, capture_output=True, text=True)
    print(f"    {done.stdout.strip()} attached", flush=True)


@contextmanager
def serving(root: str, run: str, path: str) -> Iterator[int]:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", SERVER, root, run, path, str(writing)], pass_fds=[writing], start_new_session=True
    )
    os.close(writing)
    assert os.read(reading, 1) == b"1", "the server did not start"
    os.close(reading)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def storm(commands: list[list[str]]) -> tuple[list[float], float]:
    """Start all at once; seconds of each from its start to its end, and their processor time."""
    started: dict[int, float] = {}
    for command in commands:
        pid = os.posix_spawn(command[0], command, os.environ)
        started[pid] = time.perf_counter()
    first = min(started.values())
    took: list[float] = []
    cpu = 0.0
    while started:
        pid, status, usage = os.wait4(-1, 0)
        if pid not in started:
            continue
        assert os.waitstatus_to_exitcode(status) == 0, "a caller failed"
        took.append(time.perf_counter() - started.pop(pid))
        cpu += usage.ru_utime + usage.ru_stime
    return [time.perf_counter() - first, *took], cpu


def server_pid(root: str) -> int:
    return int(Path(root, "lock").read_text())


def measure(way: str, callers: int, directory: str) -> tuple[float, float, float, float]:
    """(until the last, median of one, slowest, processor time)."""
    root, run, path = (os.path.join(directory, name) for name in ("root", "run", "door"))
    prepared(root, run)
    client = [sys.executable, "-I", "-S", "-c", CLIENT, TOP, root, run, path]
    if way in ("in turn", "alone"):
        commands = [[sys.executable, "-I", "-c", IN_TURN, root, run, f"c{number}"] for number in range(callers)]
        took, cpu = storm(commands)
    elif way == "server":
        with serving(root, run, path) as pid:
            before = cpu_of(pid)
            took, cpu = storm([[*client, f"c{number}", ""] for number in range(callers)])
            cpu += cpu_of(pid) - before
    else:
        took, cpu = storm([[*client, f"c{number}", SERVER] for number in range(callers)])
        pid = server_pid(root)
        cpu += cpu_of(pid)
        os.kill(pid, signal.SIGTERM)
        while (
            os.path.exists(f"/proc/{pid}")
            and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        ):
            os.sched_yield()
    cleared(root, run)
    whole, *each = took
    return whole, statistics.median(each), max(each), cpu


def show(what: str, values: list[float]) -> None:
    print(f"    {what:<28}" + " / ".join(f"{pick(values):.2f}" for pick in (min, statistics.median, max)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    reason = isolate()
    if reason:
        raise SystemExit(reason)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    results: dict[str, list[tuple[float, float, float, float]]] = {}
    for _ in range(options.rounds):
        for way in ("alone", "in turn", "server", "on demand"):
            with tempfile.TemporaryDirectory(dir="/run") as directory:
                found = measure(way, 1 if way == "alone" else options.callers, directory)
            results.setdefault(way, []).append(found)
    for way, rounds in results.items():
        print(f"{way}, {1 if way == 'alone' else options.callers} callers")
        for number, what in enumerate(
            ("until the last", "one caller, median", "one caller, slowest", "processor time")
        ):
            show(what, [result[number] for result in rounds])


if __name__ == "__main__":
    main()
