"""The playground: namespaces in which a host, a client on its LAN and all that pynet makes live.

    outer      the process that was called: waits, and clears away what outlives the namespaces
      |        unshare(user?, pid), fork
    init       process 1 (playground_inside.py): unshare(mount, net, ipc, uts), mounts, LAN, then only reaps; with its
      |        end the kernel kills all that is left inside.  fork
    command    the user's, in a process group of its own, in the terminal's foreground

            host: lan0 192.0.2.1/24, 2001:db8::1/64  ====  client: eth0 192.0.2.2/24, 2001:db8::2/64
            (this shell; lo; where pynet works)            (a namespace at $PYNET_LAN_NETNS; `pynet playground --lan`)

Root needs no user namespace and keeps its users and cgroups.  Anybody else is root in a user namespace that knows one
user; cgroups stay out of reach there, and limits say so.  State lives on a tmpfs that only the playground sees, so
nothing of it can be left: what has to be removed is the empty directory it was mounted on and, for root, the
containers' cgroups.

``--join`` enters one that runs, by the namespaces of its init: the child of the outer process, whose id is in the
directory's name.

    usage: python -m pynet.plugins.playground [--lan | --join] COMMAND [ARG...]     (`pynet playground` becomes this)
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from ..netlib.errors import NotFound, NotSupported, PynetError
from ..netlib.kernel import syscall as linux
from .isolation import become_root_of_a_user_namespace
from .playground_inside import CANNOT, LAN_VARIABLE, complain, environment, execute, init, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PREFIX = "pynet-"
_JOINED = (
    *(("ipc", linux.CLONE_NEWIPC), ("uts", linux.CLONE_NEWUTS), ("net", linux.CLONE_NEWNET)),
    *(("pid", linux.CLONE_NEWPID), ("mnt", linux.CLONE_NEWNS)),
)
"""The mounts last: from then on /proc is the playground's, which knows the init as process 1."""
_CGROUPS = "/sys/fs/cgroup"
_SWITCHES = {
    "/proc/sys/user/max_user_namespaces": "0",
    "/proc/sys/kernel/unprivileged_userns_clone": "0",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
}
"""Settings that forbid user namespaces, with the value that does."""


class PlaygroundForbidden(NotSupported):
    """The kernel or its settings do not allow the namespaces."""

    exit_code = CANNOT


def play(command: list[str]) -> int:
    """Run *command* in a playground of its own; returns its exit code."""
    directory = _directory()
    try:
        _unshare()
        sys.stdout.flush()
        sys.stderr.flush()
        foreground = _foreground()
        child = os.fork()
        if child == 0:
            init(directory, command, foreground)
        return _wait(child, foreground)
    finally:
        os.rmdir(directory)
        _remove_cgroups(os.path.join(directory, "root"))


# -- outer --------------------------------------------------------------------------------------------------------


def _base() -> str:
    base = os.environ.get("TMPDIR") or "/tmp"
    return base if len(base) <= 40 else "/tmp"


def _directory() -> str:
    """A new, empty directory; its path is short because Unix sockets lie below it."""
    while True:
        path = os.path.join(_base(), f"{PREFIX}{os.getpid()}-{os.urandom(4).hex()}")
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise PlaygroundForbidden(f"cannot make {path}: {error.strerror}", hint="set TMPDIR") from None
        return path


def _unshare() -> None:
    if os.geteuid() == 0:
        try:
            linux.unshare(linux.CLONE_NEWPID)
        except PermissionError:
            pass  # root without CAP_SYS_ADMIN, as in a container: as anybody else
        else:
            return
    try:
        become_root_of_a_user_namespace()
        linux.unshare(linux.CLONE_NEWPID)
    except OSError as error:
        raise PlaygroundForbidden(
            f"cannot make a user namespace: {error.strerror}", hint=_forbidden_by(error.errno)
        ) from None


def _forbidden_by(number: int | None) -> str:
    for path, value in _SWITCHES.items():
        try:
            with open(path, encoding="ascii") as file:
                found = file.read().strip()
        except OSError:
            continue
        if found == value:
            name = path.removeprefix("/proc/sys/").replace("/", ".")
            return f"sysctl {name} is {value}: an administrator can change that, or run this as root"
    if number == errno.ENOSPC:
        return "the limit in sysctl user.max_user_namespaces (or of its kin) is reached"
    return (
        "a container's seccomp profile or a security module forbids it; run this as root, or outside of the container"
    )


def _foreground() -> bool:
    """Whether we hold the terminal, and so have to hand it to the command and take it back."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _wait(child: int, foreground: bool) -> int:
    """Wait for init, whose exit code is the command's; TERM and HUP end the playground."""

    def end(number: int, frame: object) -> None:
        os.kill(child, signal.SIGKILL)

    old = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTTOU)}
    old |= {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        _, status = os.waitpid(child, 0)
        if foreground:
            try:
                os.tcsetpgrp(0, os.getpgrp())
            except OSError:
                pass  # the terminal is gone
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _remove_cgroups(root: str) -> None:
    """Remove what the engine with this *root* left below /sys/fs/cgroup: nothing lives in it any more."""
    from ..netlib.instance import Instance

    name = Instance.at(root, root).cgroup
    found: list[str] = []
    for where, directories, _ in os.walk(_CGROUPS):
        if name in directories:
            found.append(os.path.join(where, name))
            directories.remove(name)
    deadline = time.monotonic() + 2.0
    for top in found:
        for where, _, _ in os.walk(top, topdown=False):
            while True:
                try:
                    os.rmdir(where)
                except OSError as error:
                    # the kernel lets go of a dead process's cgroup a moment after its end (cgroups(7))
                    if error.errno == errno.EBUSY and time.monotonic() < deadline:
                        time.sleep(0.005)
                        continue
                break


# -- the LAN's client ---------------------------------------------------------------------------------------------


def as_client(command: list[str]) -> NoReturn:
    """Become *command* on the LAN's client."""
    path = os.environ.get(LAN_VARIABLE)
    if not path:
        raise PlaygroundForbidden("there is no LAN here", hint="--lan works inside of `pynet playground`")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        linux.setns(fd, linux.CLONE_NEWNET)
    except OSError as error:
        raise PlaygroundForbidden(
            f"cannot enter the LAN's client at {path}: {error.strerror}",
            hint="--lan works inside of `pynet playground`",
        ) from None
    execute(command, dict(os.environ))


# -- joining one that runs ----------------------------------------------------------------------------------------


def running() -> list[tuple[str, int]]:
    """Directory and init of the caller's own playgrounds, the newest first."""
    found: list[tuple[float, str, int]] = []
    for name in os.listdir(_base()):
        path = os.path.join(_base(), name)
        outer = name.removeprefix(PREFIX).partition("-")[0]
        if not (name.startswith(PREFIX) and outer.isdecimal()):
            continue
        try:
            status = os.lstat(path)
            with open(f"/proc/{outer}/task/{outer}/children", encoding="ascii") as file:
                children = [int(pid) for pid in file.read().split()]
        except OSError:
            continue  # it has ended, or is somebody else's
        # the directory lies where everybody may write, and process ids are used again: the tmpfs tells
        inits = [pid for pid in children if os.path.exists(f"/proc/{pid}/root{path}/bin/pynet")]
        found += [(status.st_mtime, path, pid) for pid in inits if status.st_uid == os.geteuid()]
    return [(path, pid) for _, path, pid in sorted(found, reverse=True)]


def join(command: list[str]) -> int:
    """Run *command* in the newest of the caller's playgrounds; returns its exit code."""
    if not (there := running()):
        raise NotFound("no playground of yours is running", hint="`pynet playground` starts one")
    directory, pid = there[0]
    try:
        own = os.stat("/proc/self/ns/user").st_ino
        if os.stat(f"/proc/{pid}/ns/user").st_ino != own:
            _enter(pid, "user", linux.CLONE_NEWUSER)
        for name, flag in _JOINED:
            _enter(pid, name, flag)
    except OSError as error:
        raise PlaygroundForbidden(
            f"cannot enter the playground at {directory}: {error.strerror}", hint="it may have ended just now"
        ) from None
    sys.stdout.flush()
    sys.stderr.flush()
    foreground = _foreground()
    child = os.fork()  # a process enters a process id namespace by birth
    if child == 0:
        run(command, environment(directory, os.path.join(directory, "lan")), foreground)
    return _wait(child, foreground)


def _enter(pid: int, name: str, flag: int) -> None:
    fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(fd, flag)
    finally:
        os.close(fd)


# -- the program --------------------------------------------------------------------------------------------------


def main(words: list[str]) -> int:
    """``[--lan | --join] COMMAND [ARG...]``"""
    try:
        if words[0] == "--lan":
            as_client(words[1:])
        return join(words[1:]) if words[0] == "--join" else play(words)
    except PynetError as error:
        complain(str(error), error.hint)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
