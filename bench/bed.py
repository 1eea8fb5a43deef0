"""A bed: namespaces of their own in which a peer is started, measured and ended whole.

    run.py --- JSON lines over pipes ---> process 1 of the bed     mount, network and pid namespaces
                                            |-- dockerd, containerd, shims, proxies   (or pynetd, supervisor, ...)
                                            '-- the commands that are timed

Process 1 runs the commands itself, so a measured time has no nsenter in it, and reaps what daemons leave.  When its
stdin ends, however that came about, it ends, and the kernel ends everything in the pid namespace and with it the mounts
and interfaces; nothing is killed by name.  What no namespace owns, cgroups, is below one parent and removed by path.

The bed's /run and /mnt are tmpfs, so all peers write to memory.  /sys is mounted anew (it shows the interfaces of
the network namespace it was mounted in) and the cgroup hierarchies are put back on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pynet.netlib.kernel import syscall as k

CGROUPS = Path("/sys/fs/cgroup")


class Result(NamedTuple):
    seconds: float
    code: int
    out: str
    err: str


class Process(NamedTuple):
    pid: int
    command: str
    """The command line, words joined by spaces."""
    pss: int
    """KiB: memory that processes share is divided among them."""
    rss: int


class CommandFailed(Exception):
    """A command of a benchmark failed; there is nothing to measure then."""


class Bed:
    """Use as a context manager; ``path`` is a directory that both sides see."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ""
        self.cgroup = f"bench-{name}-{os.getpid()}"
        self._log: Any = None
        self._worker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.path = tempfile.mkdtemp(prefix=f"bench-{self.name}-")
        os.chmod(self.path, 0o755)
        argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", sys.executable, __file__, self.path]
        # as an ordinary shell has it: PYTHONDONTWRITEBYTECODE alone would make every command compile its modules
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self._worker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        try:
            self.call(op="ping")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        worker = self._worker
        if worker is not None and worker.stdin and worker.stdout:
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()
            worker.wait(120)
            worker.stdout.close()
        shutil.rmtree(self.path, ignore_errors=True)
        remove_cgroups(self.cgroup)

    def call(self, **request: Any) -> Any:
        """One request to process 1."""
        worker = self._worker
        assert worker is not None and worker.stdin and worker.stdout
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        if not line:
            raise CommandFailed(f"the bed of {self.name} died")
        reply = json.loads(line)
        if "error" in reply:
            raise CommandFailed(f"{self.name}: {reply['error']}")
        return reply["result"]

    def run(self, *args: str, env: dict[str, str] | None = None, check: bool = True, timeout: float = 300) -> Result:
        """Run a command to its end and time it, from spawn to exit."""
        result = Result(*self.call(op="run", args=args, env=env or {}, timeout=timeout))
        if check and result.code:
            raise CommandFailed(
                f"{' '.join(args)}: exit status {result.code}: {result.err.strip() or result.out.strip()}"
            )
        return result

    def spawn(self, *args: str, env: dict[str, str] | None = None, log: str = "") -> int:
        """Start a daemon; its pid in the bed."""
        return int(self.call(op="spawn", args=args, env=env or {}, log=log or f"{self.path}/log"))

    def outer_pid(self, inner: int) -> int:
        """The pid out here of a process of the bed (NSpid of proc_pid_status(5))."""
        assert self._worker is not None
        namespace = os.readlink(f"/proc/{self._worker.pid}/ns/pid_for_children")
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                same = os.readlink(entry / "ns/pid") == namespace
                pids = next(line for line in (entry / "status").read_text().splitlines() if line.startswith("NSpid:"))
            except OSError:
                continue
            if same and int(pids.split()[-1]) == inner:
                return int(entry.name)
        raise ProcessLookupError(inner)

    def processes(self) -> list[Process]:
        return [Process(*found) for found in self.call(op="processes")]

    def count(self, what: str) -> int:
        """How many "links" or "mounts" there are: whether a benchmark left something."""
        return int(self.call(op="count", what=what))


def remove_cgroups(name: str) -> None:
    """Remove the groups below *name* in every hierarchy; a process just killed may hold one for a moment."""
    for hierarchy in [CGROUPS, *CGROUPS.iterdir()] if CGROUPS.is_dir() else []:
        top = hierarchy / name
        if not top.is_dir():
            continue
        groups = sorted((Path(found) for found, _, _ in os.walk(top)), key=lambda path: len(path.parts), reverse=True)
        for group in groups:
            for _ in range(100):
                try:
                    group.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)
                else:
                    break


# -- process 1 ---------------------------------------------------------------------------------------------------


def furnish() -> None:
    """The mounts; see the module's first lines."""
    k.mount(None, "/", None, k.MS_REC | k.MS_PRIVATE)
    k.mount("proc", "/proc", "proc", k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC)
    k.mount("bench", "/mnt", "tmpfs", k.MS_NOSUID, "mode=755")
    os.mkdir("/mnt/cgroup")
    if CGROUPS.is_dir():
        k.mount(str(CGROUPS), "/mnt/cgroup", None, k.MS_BIND | k.MS_REC)
    k.mount("sysfs", "/sys", "sysfs", k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC)
    if CGROUPS.is_dir():
        k.mount("/mnt/cgroup", str(CGROUPS), None, k.MS_MOVE)
    k.mount("bench", "/run", "tmpfs", k.MS_NOSUID | k.MS_NODEV, "mode=755")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def run_timed(args: list[str], env: dict[str, str], timeout: float) -> Result:
    """Popen.wait(timeout) would not do: it polls, with pauses of up to 50 ms."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # a daemon may inherit them: no pipes
        start = time.perf_counter()
        with subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=os.environ | env) as process:
            fd = os.pidfd_open(process.pid)
            try:
                ended, _, _ = select.select([fd], [], [], timeout)
            finally:
                os.close(fd)
            if not ended:
                process.kill()
            code = process.wait()
            seconds = time.perf_counter() - start
        texts: list[str] = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(1 << 20).decode(errors="replace"))
    return Result(seconds, code if ended else 124, *texts)


def list_processes() -> list[Process]:
    found: list[Process] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == "1":
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            rollup = (entry / "smaps_rollup").read_text()
        except (OSError, ValueError):
            continue
        values = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:] if ":" in line}
        if values:
            found.append(Process(int(entry.name), command, values["Pss"], values["Rss"]))
    return found


class Servant:
    """Process 1: carries out requests until its stdin ends."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._daemons: list[subprocess.Popen[bytes]] = []

    def serve(self) -> None:
        for line in sys.stdin.buffer:
            request = json.loads(line)
            try:
                reply = {"result": getattr(self, f"do_{request.pop('op')}")(**request)}
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()
            self._reap()

    def _reap(self) -> None:
        """Orphans become ours.  Only between requests, so no status that somebody waits for is taken."""
        mine = {daemon.pid for daemon in self._daemons if daemon.poll() is None}
        with contextlib.suppress(ChildProcessError):
            while (info := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and info.si_pid not in mine:
                os.waitpid(info.si_pid, 0)

    def do_ping(self) -> None:
        pass

    def do_run(self, args: list[str], env: dict[str, str], timeout: float) -> Result:
        return run_timed(args, env, timeout)

    def do_spawn(self, args: list[str], env: dict[str, str], log: str) -> int:
        with open(log, "ab") as output:
            daemon = subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | env,
                start_new_session=True,
            )
        self._daemons.append(daemon)
        return daemon.pid

    def do_processes(self) -> list[Process]:
        return list_processes()

    def do_count(self, what: str) -> int:
        if what == "links":
            return len(os.listdir("/sys/class/net"))
        return len(Path("/proc/self/mountinfo").read_text().splitlines())


def main() -> None:
    furnish()
    os.chdir("/")
    Servant(sys.argv[1]).serve()


if __name__ == "__main__":
    main()
