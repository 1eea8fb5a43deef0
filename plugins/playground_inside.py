"""Inside a playground: what its process 1 makes of the new namespaces, and how the user's command is run there.

mounts        private; /proc and /sys of the new namespaces; a tmpfs for all state; the machine's pynet covered
LAN           a second network namespace and a cable between it and ours
command       with the directories and PATH of here in its environment, in a process group of its own
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from ..netlib.errors import PynetError
from ..netlib.kernel import syscall as linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

CANNOT = 125
"""Exit code when there can be no playground."""
LAN_VARIABLE = "PYNET_LAN_NETNS"
INSIDE_VARIABLE = "PYNET_PLAYGROUND"
_INSIDE = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
_CGROUPS = "/sys/fs/cgroup"


def init(directory: str, command: list[str], foreground: bool) -> NoReturn:
    """Process 1 of the playground.  Never returns, and never lets an exception out into the caller's frames."""
    code = CANNOT
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        lan = os.path.join(directory, "lan")
        linux.unshare(_INSIDE)
        _mounts(directory)
        linux.sethostname("playground")
        _lan(lan)
        environ = environment(directory, lan)
        child = os.fork()
        if child == 0:
            run(command, environ, foreground)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTTOU, signal.SIGTTIN):
            signal.signal(number, signal.SIG_IGN)
        while True:
            pid, status = os.wait()
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                code = code if code >= 0 else 128 - code
                break
    except PynetError as error:
        complain(str(error), error.hint)
    except OSError as error:
        complain(f"cannot set up the playground: {error.filename or ''}: {error.strerror}", _hint(error))
    finally:
        os._exit(code)


def complain(message: str, hint: str) -> None:
    os.write(2, f"pynet: {message}\n  {hint}\n".encode())


def _hint(error: OSError) -> str:
    if error.filename == "/proc" and error.errno == errno.EPERM:
        return "parts of /proc are covered here, as in a container, and so no new one may be mounted; run this outside"
    return "the kernel lacks a feature, or a security module forbids it"


def _mounts(directory: str) -> None:
    """Private mounts; /proc and /sys of the new namespaces; a tmpfs for all state."""
    quiet = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", directory, "tmpfs", linux.MS_NOSUID, "mode=700")
    for name in ("root", "run", "cgroup", "bin"):
        os.mkdir(os.path.join(directory, name), 0o711)
    # the same pynet inside as outside, also when it was called by its path or as a module
    write(os.path.join(directory, "bin", "pynet"), f'#!/bin/sh\nexec {_shell(sys.executable)} -I -m pynet "$@"\n')
    os.chmod(os.path.join(directory, "bin", "pynet"), 0o755)
    # what the machine's own pynet and `ip netns` keep must neither be seen nor be changed from inside
    for path in ("/run/pynet", "/run/netns"):
        if os.path.isdir(path):
            linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID, "mode=755")
    linux.mount("proc", "/proc", "proc", quiet)
    keep = os.path.join(directory, "cgroup")
    kept = _try_mount(_CGROUPS, keep, None, linux.MS_BIND | linux.MS_REC)
    # a read-only /sys (as in a container) allows only a read-only second one
    if _try_mount("sysfs", "/sys", "sysfs", quiet) or _try_mount("sysfs", "/sys", "sysfs", quiet | linux.MS_RDONLY):
        if kept:
            linux.mount(keep, _CGROUPS, None, linux.MS_MOVE)
    elif kept:
        linux.umount2(keep, linux.MNT_DETACH)


def _shell(text: str) -> str:
    """*text* as one word of sh(1)."""
    return "'" + text.replace("'", "'\\''") + "'"


def _try_mount(source: str, target: str, kind: str | None, flags: int) -> bool:
    try:
        linux.mount(source, target, kind, flags)
    except OSError:
        return False
    return True


def _lan(path: str) -> None:
    """A second network namespace, bound at *path*, and a cable between it and ours."""
    from ..netlib.kernel.rtnetlink import Rtnetlink
    from ..netlib.kernel.rtnl_links import LOOPBACK_INDEX
    from .lan import lay

    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    host = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    linux.unshare(linux.CLONE_NEWNET)
    linux.mount("/proc/self/ns/net", path, None, linux.MS_BIND)
    client = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    there = Rtnetlink()
    linux.setns(host, linux.CLONE_NEWNET)
    with there, Rtnetlink() as here:
        here.set_link(LOOPBACK_INDEX, up=True)
        lay(here, there, client_fd=client, ifname="lan0")
    os.close(host)
    os.close(client)


def environment(directory: str, lan: str) -> dict[str, str]:
    """The command's environment: the directories, and a PATH on which `pynet` and the system's programs are found."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYNET_HOST", "DOCKER_HOST")}
    run = os.path.join(directory, "run")
    environ |= {
        INSIDE_VARIABLE: directory,
        "PYNET_ROOT": os.path.join(directory, "root"),
        "PYNET_RUN": run,
        "PYNET_CONFIG_FILE": os.devnull,  # the machine's names things of the machine's network
        LAN_VARIABLE: lan,
        "DOCKER_HOST": f"unix://{run}/pynet.sock",
    }
    path = environ.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":")
    environ["PATH"] = ":".join(
        [os.path.join(directory, "bin"), *path, *(place for place in ("/usr/sbin", "/sbin") if place not in path)]
    )
    return environ


def run(command: list[str], environ: dict[str, str], foreground: bool) -> NoReturn:
    try:
        os.setpgid(0, 0)
        if foreground:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpid())
        for number in (signal.SIGTTOU, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        execute(command, environ)
    finally:
        os._exit(CANNOT)


def execute(command: list[str], environ: dict[str, str]) -> NoReturn:
    """Become *command*; 127 and 126 as a shell has them."""
    try:
        os.execvpe(command[0], command, environ)
    except OSError as error:
        # a directory on PATH that may not be searched is no reason to say that the command may not be executed
        places = [""] if "/" in command[0] else environ.get("PATH", "").split(":")
        found = any(os.path.exists(os.path.join(place, command[0])) for place in places)
        complain(f"cannot run {command[0]}: {error.strerror if found else 'not found'}", "it is looked for on PATH")
        os._exit(126 if found else 127)


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
