"""The smallest process there is: what stands in docker-proxy's place while the shared forwarder does its work.

    signals blocked, execve --> signalfd --> poll --- SIGTERM or SIGINT ---> shutdown, wait for the other end, exit 0
                                              `------ forwarder is gone ---> flock, execve(argv): lend again

The program is 132 bytes of machine code (sleeper.s is its source) in a file of one page, and needs a page of stack: 7 KiB
(PSS), where ``sleep infinity`` takes 109 KiB, a static busybox 64 KiB and docker-proxy 740 KiB (bench/bench_waiting.py).  It
owns three descriptors:

    4    the published socket: clients queue on it while a lost forwarder is replaced
    5    the connection to the forwarder; its end withdraws the port, however this process ends
    6    a lock file: after the loss of a forwarder one process at a time goes back to it

On a signal it says that it leaves and waits for the answer (at most the SO_RCVTIMEO of 5), so when dockerd has reaped
it the port is free.  Its argv is the command that lends the port again, which is what it runs when the forwarder dies.
On machines without such code, busybox or sleep takes its place: there the port ends with the process, an instant later,
and a lost forwarder is not replaced.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # pyright: ignore  # signal itself would cost enum's import
import fcntl
import os

LISTEN_FD, CONTROL_FD, TURN_FD = 4, 5, 6
FILE = "pynet-proxy"

_X86_64 = bytes.fromhex(
    "4889e3"
    "6802400000 4889e6"
    "83cfff 6a085a 4531d2 b821010000 0f05"
    "6a05 50 c644240401"
    "4889e7 6a025e 83caff 6a0758 0f05"
    "66837c240600 752d"
    "66837c240e00 74e2"
    "6a065f 6a025e 6a4958 0f05"
    "488b7b08 488d7308 488b03 488d54c310 6a3b58 0f05"
    "6a015f eb17"
    "6a055f 6a015e 6a3058 0f05"
    "4889e6 6a015a 31c0 0f05"
    "31ff"
    "b8e7000000 0f05"
)
"""sleeper.s, assembled: a line an instruction or a system call.  Who changes one changes the other; a test compares."""
_BASE = 0x400000


def program(machine: str) -> bytes | None:
    """An ELF file (elf(5)) for *machine* as uname(2) names it; None when there is no code for it."""
    if machine != "x86_64":
        return None
    headers = 64 + 2 * 56
    size = headers + len(_X86_64)

    def word(value: int, width: int) -> bytes:
        return value.to_bytes(width, "little")

    # e_ident, ET_EXEC for EM_X86_64, entry, program headers at 64, no sections
    elf = b"\x7fELF\2\1\1".ljust(16, b"\0") + word(2, 2) + word(62, 2) + word(1, 4)
    elf += word(_BASE + headers, 8) + word(64, 8) + word(0, 8) + word(0, 4)
    elf += word(64, 2) + word(56, 2) + word(2, 2) + word(0, 6)
    # PT_LOAD, readable and executable: the whole file; PT_GNU_STACK: the stack is not executable
    elf += word(1, 4) + word(5, 4) + word(0, 8) + word(_BASE, 8) * 2 + word(size, 8) * 2 + word(4096, 8)
    elf += word(0x6474E551, 4) + word(6, 4) + bytes(40) + word(16, 8)
    return elf + _X86_64


def install(run: str) -> None:
    """Put the program into *run*, a directory that only its owner writes to."""
    content = program(os.uname().machine)
    if content is None:
        return
    new = f"{run}/{FILE}.{os.getpid()}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o700), "wb") as file:
        file.write(content)
    os.rename(new, f"{run}/{FILE}")


def become(run: str, argv: list[str], *, listener: int, control: int, ready: bytes, ready_fd: int) -> None:
    """Turn this process into the sleeper.  Says *ready* on *ready_fd* last.  OSError when nothing could be executed.

    *argv* is the command that takes the published socket on descriptor 4 and lends it again.
    """
    turn = os.open(f"{run}/turn.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # out of the way of the numbers that they must have, then there; dup2 makes them survive execve
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (listener, control, turn)]
    said = fcntl.fcntl(ready_fd, fcntl.F_DUPFD_CLOEXEC, 16) if ready_fd >= 0 else -1
    os.closerange(3, 16)
    for fd, number in zip(high, (LISTEN_FD, CONTROL_FD, TURN_FD), strict=True):
        os.dup2(fd, number)
    # from the moment that we are said to serve, who ends us waits until the port is free; the program inherits this
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT, _signal.SIGTERM))
    if said >= 0:
        try:
            os.write(said, ready)
        except OSError:
            pass  # nobody is there to hear it: started by hand, or again
    last: OSError | None = None
    for attempt in (_from_file, _from_memory, _busybox, _sleep):
        if attempt is _busybox:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT, _signal.SIGTERM))
        try:
            attempt(run, argv)
        except OSError as error:
            last = error
    assert last is not None
    raise last


def _from_file(run: str, argv: list[str]) -> None:
    os.execve(f"{run}/{FILE}", argv, os.environ)


def _from_memory(run: str, argv: list[str]) -> None:
    """For run directories that are mounted noexec; costs a page more."""
    content = program(os.uname().machine)
    if content is None:
        return
    fd = os.memfd_create(FILE, os.MFD_CLOEXEC)
    os.write(fd, content)
    os.execve(fd, argv, os.environ)


def _busybox(run: str, argv: list[str]) -> None:
    # the day's seconds times ten thousand: busybox knows no infinity
    os.execve("/bin/busybox", ["busybox", "sleep", "864000000"], {})


def _sleep(run: str, argv: list[str]) -> None:
    os.execve("/bin/sleep", ["sleep", "infinity"], {})
