"""An attached stream: this terminal on one side, a container's (or an exec's) on the other.

    stdin  --> detach keys? --> buffer --> socket            one poll() loop; nothing in it waits for the other
    stdout <-- frames, or raw with a terminal <-- socket     direction, so neither side can block the other
    signals --> wake-up pipe --> SIGWINCH: resize; others: handed to the container (--sig-proxy)

With a terminal, ours is put into raw mode for as long as we are attached, whatever ends it.  Without one, signals go to
the container, which may not care (a process 1 without a handler never does): the third that asks to end is taken as
meant for us, as Docker's client takes it.
"""

from __future__ import annotations

import os
import select
from _socket import SHUT_WR

from ..engine.grammar.detach import DetachScanner, parse_keys
from ..netlib.errors import PynetError
from .frames import Demultiplexer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from .client import Client
else:
    import _signal as signal  # the same functions and numbers, without the enums that cost 4 ms

_CHUNK = 65536
PROXIED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
    signal.SIGCONT,
)
"""Signals that --sig-proxy hands on.  Not CHLD, PIPE, URG and WINCH, which speak of us and not of the container."""


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
PATIENCE = 3
"""Signals of ENDING until we leave (docker/cli, forceExitAfter3TerminationSignals)."""


class Interrupted(Exception):
    """A signal that is not handed on ended the session."""

    def __init__(self, number: int) -> None:
        super().__init__(signal_name(number))
        self.number = number


class Impatient(PynetError):
    """The user asked for the end as often as it takes, and the container did not end."""

    hint = "the container goes on: `pynet ps` shows it, `pynet kill` ends it"

    def __init__(self) -> None:
        super().__init__(f"got {PATIENCE} SIGTERM/SIGINTs, forcefully exiting")


def signal_name(number: int) -> str:
    """15 -> "SIGTERM"."""
    names = (name for name in dir(signal) if name.startswith("SIG") and "_" not in name)
    return next((name for name in names if getattr(signal, name) == number), str(number))


def resize(client: Client, where: str, height: int, width: int) -> None:
    """Tell the engine the terminal's size.  What has just ended needs none; and if the engine went, the stream says so."""
    try:
        client.post(f"{where}/resize", {"h": height, "w": width})
    except PynetError:
        pass


class Session:
    """One attached stream.  Use as a context manager around start and ``run``, so that no signal is lost between."""

    def __init__(
        self,
        *,
        tty: bool,
        stdin: bool,
        detach_keys: str | None = None,
        on_resize: Callable[[int, int], None] | None = None,
        on_signal: Callable[[int], None] | None = None,
    ) -> None:
        self.tty, self.stdin = tty, stdin
        self._keys = DetachScanner(parse_keys(detach_keys))
        self._on_resize, self._on_signal = on_resize, on_signal
        self._raw = tty and stdin and os.isatty(0)
        self._saved: Any = None
        self._handlers: dict[int, Any] = {}
        self._wake, self._woken = -1, -1
        self._old_wakeup = -1
        self._asked_to_end = 0

    # -- set-up and its undoing ----------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_wakeup = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        wanted = PROXIED if self._on_signal or self._raw else ()
        for number in (*wanted, *((signal.SIGWINCH,) if self._on_resize else ())):
            self._handlers[number] = signal.signal(number, _ignore)
        if self._raw:
            import termios
            import tty

            self._saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
            self._saved = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._wake)
        os.close(self._woken)

    def resize(self) -> None:
        """Tell the other side our size, when we have one."""
        if self._on_resize:
            try:
                size = os.get_terminal_size(1)
            except OSError:
                return
            self._on_resize(size.lines, size.columns)

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self, sock: socket, first: bytes = b"") -> bool:
        """Carry bytes until the other side ends the stream; False when the user detached."""
        demultiplexer = None if self.tty else Demultiplexer()
        _write(demultiplexer, first)
        sock.setblocking(False)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        out = bytearray()
        reading, sending = self.stdin, True
        if not reading:
            sending = False  # the write side stays open: its end would mean that stdin ended
        while True:
            poll.register(sock, select.POLLIN | (select.POLLOUT if out else 0))
            if reading and len(out) < _CHUNK:
                poll.register(0, select.POLLIN)
            ready = dict(poll.poll())
            if reading and len(out) < _CHUNK:
                poll.unregister(0)
            if self._wake in ready:
                self._signals()
            if 0 in ready:
                data = _read_stdin()
                if data:
                    out += self._keys.feed(data) if self._raw else data
                    if self._keys.detached:
                        self._last_words(sock, out)
                        os.write(2, b"\r\n")  # the shell's prompt is to begin a line
                        return False
                else:
                    reading = False
            if ready.get(sock.fileno(), 0) & (select.POLLIN | select.POLLHUP | select.POLLERR):
                try:
                    data = sock.recv(_CHUNK)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    data = b""
                if not data:
                    return True
                _write(demultiplexer, data)
            if out:
                try:
                    del out[: sock.send(out)]
                except BlockingIOError:
                    pass
                except (BrokenPipeError, ConnectionResetError):
                    out.clear()
                    reading = sending = False  # the container closed its stdin; its output may go on
            if sending and not reading and not out:
                sending = False
                try:
                    sock.shutdown(SHUT_WR)
                except OSError:
                    pass

    def _last_words(self, sock: socket, out: bytearray) -> None:
        """What was typed before the detach keys, as far as the other side takes it at once."""
        try:
            sock.send(out)
        except OSError:
            pass

    def _signals(self) -> None:
        for number in os.read(self._wake, 256):
            if number == signal.SIGWINCH:
                self.resize()
            elif number == signal.SIGCONT and self._raw:
                continue
            elif self._on_signal:
                self._asked_to_end += number in ENDING
                if self._asked_to_end == PATIENCE:
                    raise Impatient
                self._on_signal(number)
            elif number in self._handlers:
                raise Interrupted(number)


def _ignore(number: int, frame: object) -> None:
    """The wake-up pipe brings the number to the loop; the handler has to exist for that."""


def _read_stdin() -> bytes:
    try:
        return os.read(0, _CHUNK)
    except BlockingIOError:
        return b""
    except OSError:
        return b""  # EIO: we are in the background, or the terminal is gone


def _write(demultiplexer: Demultiplexer | None, data: bytes) -> None:
    if demultiplexer is None:
        write_all(1, data)
        return
    for stream, piece in demultiplexer.feed(data):
        write_all(2 if stream == 2 else 1, piece)


def write_all(fd: int, data: bytes) -> None:
    """Write all of *data*, also to a descriptor that somebody made non-blocking (a shared terminal)."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
