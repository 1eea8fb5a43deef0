"""The Engine API as the commands see it: requests in, JSON out, errors as exceptions; the engine started on demand.

    Client(settings).get("/containers/json", {"all": 1})   -> parsed JSON
                    .post(path, query, body) .delete(path, query)
                    .stream(...)                           -> a Response whose body is still coming
                    .upgrade(path, query, body)            -> (socket, first bytes): attach and exec

Requests that follow each other share one connection; a stream or an upgrade takes one of its own.
"""

from __future__ import annotations

import json
import socket

from ..netlib.errors import PynetError, Unavailable
from .http1 import BadResponse, Connection, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from .settings import Settings

API_VERSION = "1.51"
"""What this client speaks; the last version with the older address fields that scripts' templates read."""

_HINTS = (
    ("No such image", "`pynet images` lists what is there; `pynet image bootstrap` makes busybox:latest"),
    ("No such container", "`pynet ps -a` lists all containers"),
    ("Invalid container name", "two characters or more: letters, digits, _ . and -, a letter or a digit first"),
    ("is already in use by container", "choose another --name, or remove that container"),
    ("already allocated", "`pynet ps` shows which container has the port; publish another one"),
    ("address already in use", "another program on this host has the port; publish another one"),
    ("executable file not found", "look for the command in the image: `pynet run --rm IMAGE ls /bin`"),
    (": permission denied", "is it executable? `pynet run --rm IMAGE ls -l FILE` shows it"),
    ("unable to find user", "the image's /etc/passwd and /etc/group have the names; numbers always do: -u 1000:1000"),
    ("must be forced", "stop the container first, or use -f"),
    ("container is paused", "`pynet unpause` it first"),
    ("cannot remove container", "`pynet stop` it first, or use `pynet rm -f`"),
    ("is paused", "`pynet unpause` it first"),
    ("is restarting", "wait until it runs, or `pynet stop` it"),
    ("is not running", "`pynet start` it first; `pynet ps -a` shows its state"),
    ("invalid signal", "give a name or a number that signal(7) lists, for example TERM or 9"),
    ("invalid filter", "write NAME=VALUE; docs/cli.md and Docker's manual list the names"),
    ("Minimum memory", "give at least -m 6m"),
    ("Range of CPUs", "give --cpus no more than there are"),
    ("invalid capability", "capabilities(7) lists them; ALL means all"),
    ("local volume name", "a volume's name has letters, digits, _ . and -; a directory of the host begins with /"),
    ("bind source path does not exist", "make it first, or use -v, which makes a directory"),
    ("working directory", "give a directory of the container that begins with /"),
    ("namespace of container", "`pynet ps` lists the containers that run"),
    ("separate kernel namespace", "set it for the whole host, with sysctl(8)"),
    ("invalid --security-opt", "no-new-privileges, seccomp=unconfined and seccomp=builtin are known"),
    ("log driver", "json-file and none are known"),
    ("runtime name", "leave --runtime out"),
    ("predefined", "bridge, host and none are always there; choose another name"),
    ("pre-defined", "bridge, host and none are always there"),
    ("user-defined networks only", "make one with `pynet network create --subnet CIDR NAME`, and use --network NAME"),
    ("already exists in network", "it is connected; `pynet network disconnect` undoes that"),
    ("is not connected to", "`pynet inspect` shows the networks of a container"),
    ("device /dev", "`ls -l /dev` shows the devices of this host"),
    ("has active endpoints", "stop or disconnect the containers on it first"),
)
"""What to do, for answers without a hint of their own: (part of the message, hint); the first that fits."""
_BY_STATUS = {
    400: "check what was asked for: `pynet COMMAND --help` lists the options",
    403: "`pynet inspect` shows the object",
    404: "`pynet ps -a`, `pynet images` and `pynet network ls` list what there is",
    409: "`pynet ps -a` shows the states of containers",
    501: "docs/engine-api.md lists what this engine does",
}
_ELSE = "the engine's log may say more: pynetd.log in its run directory"


class DaemonError(PynetError):
    """The engine answered with an error; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        if not hint:
            hint = next((text for part, text in _HINTS if part in message), _BY_STATUS.get(status, _ELSE))
        super().__init__(f"Error response from daemon: {message}", hint=hint)
        self.http_status, self.text = status, message


class Client:
    """One engine.  Not thread-safe; threads get their own."""

    def __init__(self, settings: Settings, *, start: bool = True) -> None:
        self.settings = settings
        self._may_start = start and not settings.named
        self._idle: Connection | None = None

    # -- connections ---------------------------------------------------------------------------------------------

    def _dial(self) -> socket.socket:
        address = self.settings.address
        if not isinstance(address, str):
            return socket.create_connection(address)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def connect(self) -> Connection:
        """A new connection; starts the engine when it is ours and away."""
        try:
            return Connection(self._dial())
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not self._may_start:
                raise self._away(error) from None
        except OSError as error:
            raise self._away(error) from None
        from .launch import start_engine

        start_engine(self.settings)
        try:
            return Connection(self._dial())
        except OSError as error:
            raise self._away(error) from None

    def _away(self, error: OSError) -> Unavailable:
        if isinstance(error, PermissionError):
            hint = "run as root, or try `pynet playground`, which needs no privilege"
        elif self.settings.named:
            hint = "start it, or unset PYNET_HOST and DOCKER_HOST to use pynet's own"
        else:
            hint = "`pynet daemon start` starts it"
        return Unavailable(
            f"cannot connect to the engine at {self.settings.shown}: {error.strerror or error}", hint=hint
        )

    def close(self) -> None:
        """Drop the idle connection."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    # -- requests ------------------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        *,
        raw: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        extra: str = "",
    ) -> Connection:
        """Send a request on a connection of its own, whose ``receive`` waits for the answer.

        *raw* is a body that comes in pieces; *extra* is more of the query, for names that occur several times.
        """
        connection = self.connect()
        payload = raw if raw is not None else _encoded(body)
        where = target(path, query)
        if extra:
            where += ("&" if "?" in where else "?") + extra
        connection.send(method, where, payload, headers=_headers(body, headers))
        return connection

    def stream(self, method: str, path: str, query: Mapping[str, Any] | None = None, **more: Any) -> Response:
        """The response, whose body the caller reads; an error answer is raised."""
        return checked(self.send(method, path, query, **more).receive())

    def request(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: object = None
    ) -> tuple[int, Any]:
        """Status and JSON of one exchange on the shared connection."""
        connection, self._idle = self._idle or self.connect(), None
        connection.send(method, target(path, query), _encoded(body), headers=_headers(body, None))
        response = checked(connection.receive(head_only=method == "HEAD"))
        value = response.json()
        if connection.reusable:
            self._idle = connection
        else:
            connection.close()
        return response.status, value

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self.request("GET", path, query)[1]

    def post(self, path: str, query: Mapping[str, Any] | None = None, body: object = None) -> Any:
        return self.request("POST", path, query, body)[1]

    def delete(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self.request("DELETE", path, query)[1]

    def upgrade(
        self, path: str, query: Mapping[str, Any] | None = None, body: object = None
    ) -> tuple[socket.socket, bytes]:
        """POST that turns the connection into a raw stream (attach, exec start)."""
        return upgraded(self.send("POST", path, query, body, headers={"Connection": "Upgrade", "Upgrade": "tcp"}))


def upgraded(connection: Connection) -> tuple[socket.socket, bytes]:
    """Wait for the answer to an upgrade request: the socket, and what came with the answer."""
    response = checked(connection.receive())
    if response.status not in (101, 200):  # 200: the older form of the hijack, without a header of its own
        raise BadResponse(f"the engine did not open the stream (status {response.status})")
    return connection.sock, connection.leftover()


def checked(response: Response) -> Response:
    """*response*, unless it is an error: that is raised."""
    if response.status < 400:
        return response
    body = response.read()
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        answer = {"message": body.decode(errors="replace").strip() or response.reason}
    raise DaemonError(response.status, str(answer.get("message", "")).strip(), str(answer.get("hint", "")))


def target(path: str, query: Mapping[str, Any] | None = None) -> str:
    """The request target: version prefix, path, and the query without its empty values."""
    words: list[str] = []
    for key, value in (query or {}).items():
        if value is None or value is False or value == "" or value == {}:
            continue
        if isinstance(value, (dict, list)):
            value = json.dumps(value, separators=(",", ":"))
        words.append(f"{key}={quote('1' if value is True else str(value))}")
    return f"/v{API_VERSION}{path}" + ("?" + "&".join(words) if words else "")


_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")  # RFC 3986, unreserved


def quote(text: str, also: bytes = b"") -> str:
    """Percent-encode *text* (urllib.parse costs 6 ms); the bytes of *also* are left as they are."""
    return "".join(chr(b) if b in _SAFE or b in also else f"%{b:02X}" for b in text.encode("utf-8", "surrogateescape"))


def _headers(body: object, headers: Mapping[str, str] | None) -> dict[str, str]:
    return {**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})}


def _encoded(body: object) -> bytes:
    return b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
