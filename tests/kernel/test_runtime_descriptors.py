"""What a process on its way into a container may hold: a list, and everything else is let go before it does anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

SCRIPT = """
import fcntl, os, select
from pynet.runtime.child import order
from pynet.runtime.supervisor import spawn
from pynet.runtime.supervisor.host import Host

BOUND = 20_000  # ms

def held_by(make):
    '''{number: link} of a child that waits at its gate, after it has let go of what it must not have.'''
    noise = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(40)]  # a supervisor's: directories of the host
    os.set_inheritable(noise[0], True)
    reader, low = os.pipe()
    writer = fcntl.fcntl(low, fcntl.F_DUPFD, 500)  # the last that close_range meets
    os.close(low)
    told = make()
    spawned = spawn._clone(told, -1)
    os.close(writer)
    gone = select.poll()
    gone.register(reader, select.POLLHUP)
    assert gone.poll(BOUND), "the child keeps what is not on its list"
    found = {int(n): os.readlink(f"/proc/{spawned.pid}/fd/{n}") for n in os.listdir(f"/proc/{spawned.pid}/fd")}
    expected = {0, 1, 2, *(fd for fd in told.descriptors() if fd >= 0)}
    pipes = {fd for fd in found if found[fd] in (os.readlink(f"/proc/self/fd/{spawned.errors}"),
                                                 os.readlink(f"/proc/self/fd/{spawned._gate}"))}
    assert len(pipes) == 2, found
    assert set(found) == expected | pipes, (found, expected)
    spawned.cancel()
    os.waitid(os.P_PID, spawned.pid, os.WEXITED)
    for fd in (*noise, reader):
        os.close(fd)
    return found, told

host = Host("/tmp")
null = os.readlink(f"/proc/self/fd/{host.null}")
reader, writer = os.pipe()

def joining():
    told = order.Join()
    told.args, told.null, told.stdio = ["true"], host.null, [-1, writer, writer]
    told.target = os.pidfd_open(os.getpid())
    return told

def first():
    told = order.Launch()
    told.args, told.null, told.stdio = ["true"], host.null, [-1, -1, writer]
    told.root = os.open("/tmp", os.O_PATH)
    return told

for make in (joining, first):
    found, told = held_by(make)
    assert found[0] == null, found
    assert found[2] == os.readlink(f"/proc/self/fd/{writer}"), found
    if make is joining:
        assert sorted(found[fd] for fd in found if "pidfd" in found[fd]) == [found[told.target]], found
print("held to the list")
"""


def test_a_child_holds_only_what_is_on_its_list() -> None:
    """In a process of its own: clone3 wants a single thread."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "held to the list\n", done.stdout + done.stderr
