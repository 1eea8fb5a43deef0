"""Where the engine is: its socket, its directories, and whether this command may start it.

    --host  >  PYNET_HOST  >  --run or PYNET_RUN (the socket in it)  >  DOCKER_HOST  >  /run/pynet/pynet.sock

A directory that was named outranks DOCKER_HOST, which many people export for another engine; a playground sets both.
The engine is started on demand only where it is found through its directory: who names a socket names somebody
else's engine, which is there or is not.
"""

from __future__ import annotations

import os

from ..netlib.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .http1 import Connection

DEFAULT_ROOT = "/var/lib/pynet"
DEFAULT_RUN = "/run/pynet"
SOCKET_NAME = "pynet.sock"
_PATH_LIMIT = 107
"""Bytes of a Unix socket's path, without the closing zero (unix(7))."""


class Settings:
    """``address`` is a socket's path, or (host, port); ``named`` says that the user named a socket."""

    def __init__(self, address: str | tuple[str, int], root: str, run: str, *, named: bool) -> None:
        self.address, self.root, self.run, self.named = address, root, run, named
        self.early: Connection | None = None
        """A connection that was begun before it was known what to ask (client.knock); for whoever needs one first."""

    @property
    def shown(self) -> str:
        """The address as a user writes it."""
        return f"unix://{self.address}" if isinstance(self.address, str) else "tcp://{}:{}".format(*self.address)

    @classmethod
    def resolve(cls, options: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Settings:
        """Settings from the global options (host, root, run), then the environment."""
        root = os.path.abspath(options.get("root") or environ.get("PYNET_ROOT") or DEFAULT_ROOT)
        named_run = options.get("run") or environ.get("PYNET_RUN")
        run = os.path.abspath(named_run or DEFAULT_RUN)
        host = options.get("host") or environ.get("PYNET_HOST") or ("" if named_run else environ.get("DOCKER_HOST", ""))
        own = os.path.join(run, SOCKET_NAME)
        address = parse_host(host) if host else own
        if isinstance(address, str) and len(os.fsencode(address)) > _PATH_LIMIT:
            raise InvalidArgument(
                f"socket path is longer than {_PATH_LIMIT} bytes: {address}", hint="choose a shorter --run directory"
            )
        return cls(address, root, run, named=address != own)


def parse_host(text: str) -> str | tuple[str, int]:
    """``unix:///path``, ``/path`` or ``tcp://host:port`` -> a path, or (host, port)."""
    if text.startswith("unix://") and len(text) > len("unix://"):
        return text.removeprefix("unix://")
    if text.startswith("/"):
        return text
    if text.startswith("tcp://"):
        host, _, port = text.removeprefix("tcp://").rstrip("/").rpartition(":")
        if host and port.isdecimal() and 0 < int(port) < 65536:
            return host.strip("[]"), int(port)
    raise InvalidArgument(
        f"unable to parse the engine's address: {text!r}", hint="write unix:///path/to/socket or tcp://host:port"
    )
