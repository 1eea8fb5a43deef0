"""Moving the whole test process into namespaces of its own, so that no test can touch the machine.

    root            unshare(net, mount)
    anybody else    unshare(user, net, mount), own uid mapped to 0
    both            mounts private, an empty tmpfs on /run (its locks, sockets and pins out of reach), lo up

The process itself moves; nothing is executed again, so options, captured output and debuggers stay as they are.  The
price: it must be done while the process has one thread (user namespaces ask for it), that is, early.  A worker of
pytest-xdist already lives in its controller's namespaces and moves on into its own, which needs no new user namespace
and therefore bears other threads; those threads, which only talk to the controller, stay behind.

Moving can not be taken back, so for a user namespace it is first tried in a child: where a policy forbids it half way
(user namespaces without capabilities, as some distributions have them), the process stays as it was.
"""

from __future__ import annotations

import os
import threading

from ..netlib.kernel.syscall import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    mount,
    unshare,
)


def isolate(*, may_map_user: bool = True) -> str:
    """Move the process; return "" or, with nothing done, the reason why it can not be done here."""
    _find_system_programs()
    try:
        _move(0)
    except PermissionError as error:
        if not may_map_user:
            return f"namespaces are not permitted here ({error})"
    except OSError as error:
        return f"namespaces can not be made here ({error})"
    else:
        return ""
    if threading.active_count() > 1:
        return "a user namespace needs a process with one thread, this one has more"
    reason = _tried_in_child()
    if not reason:
        _move(CLONE_NEWUSER)
    return reason


def maps_every_uid() -> bool:
    """Whether this is root as the machine has it, and not root of a user namespace with a uid or two."""
    with open("/proc/self/uid_map", encoding="ascii") as lines:  # user_namespaces(7)
        return lines.read().split() == ["0", "0", "4294967295"] and os.geteuid() == 0


def _find_system_programs() -> None:
    """Inside we are root, who finds nft, ip and the like; an ordinary user's PATH has no sbin."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    sbin = ("/usr/local/sbin", "/usr/sbin", "/sbin")
    os.environ["PATH"] = os.pathsep.join([*path, *(directory for directory in sbin if directory not in path)])


def loopback_up() -> None:
    """Bring lo up in the calling thread's namespace."""
    from ..netlib.kernel.rtnetlink import Rtnetlink
    from ..netlib.kernel.rtnl_links import LOOPBACK_INDEX

    with Rtnetlink() as rtnl:
        rtnl.set_link(LOOPBACK_INDEX, up=True)


def _move(user: int) -> None:
    if user:  # from now on we look like root, but pytest must not take root's temporary directory for its own
        os.environ.setdefault("LOGNAME", os.environ.get("USER") or f"uid{os.geteuid()}")
        become_root_of_a_user_namespace()
    unshare(CLONE_NEWNET | CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("pynet-test", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    loopback_up()


def become_root_of_a_user_namespace() -> None:
    """A new user namespace that knows one user: us, as root.  The process has one thread."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    _write("/proc/self/setgroups", "deny")  # user_namespaces(7): before an ordinary user may write gid_map
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _tried_in_child() -> str:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _move(CLONE_NEWUSER)
        except OSError as error:
            os.write(write_end, f"neither root nor a user namespace ({error})".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as answer:
        reason = answer.read()
    os.waitpid(pid, 0)
    return reason
