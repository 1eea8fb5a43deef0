"""The Engine API as the commands see it: requests in, JSON out, errors as exceptions; the engine started on demand.

    Client(settings).get("/containers/json", {"all": 1})   -> parsed JSON
                    .post(path, query, body) .delete(path, query)
                    .stream(...)                           -> a Response whose body is still coming
                    .upgrade(path, query, body)            -> (socket, first bytes): attach and exec

Requests that follow each other share one connection; a stream or an upgrade takes one of its own.  The engine closes
a connection that was idle for long (a session with a container can last days): it is looked at before it is used
again, and a request of which nothing was taken, or that only asks, is sent once more on a new one.  Any other is not:
whether it was carried out is not known, and the user is told so.
"""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_STREAM, socket

from ..netlib.errors import PynetError, Unavailable
from .http1 import BadResponse, Connection, ConnectionLost, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from .settings import Settings

API_VERSION = "1.51"
"""What this client speaks; the last version with the older address fields that scripts' templates read."""


UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
"""Headers of a request whose connection is to become a stream."""


class DaemonError(PynetError):
    """The engine answered with an error; ``http_status`` is HTTP's, ``hint`` the engine's own."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(f"Error response from daemon: {message}", hint=hint)
        self.http_status, self.text = status, message


def knock(settings: Settings) -> None:
    """Connect before it is known what to ask: the engine takes us in while the command is loaded."""
    if isinstance(settings.address, str):
        try:
            settings.early = Connection(_dial(settings.address))
        except OSError:
            pass  # whoever asks finds out, and starts the engine where it may


def _dial(address: str | tuple[str, int]) -> socket:
    if not isinstance(address, str):
        from socket import create_connection

        return create_connection(address)
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


class Client:
    """One engine.  Not thread-safe; threads get their own."""

    def __init__(self, settings: Settings, *, start: bool = True) -> None:
        self.settings = settings
        self._may_start = start and not settings.named
        self._idle: Connection | None = None

    # -- connections ---------------------------------------------------------------------------------------------

    def connect(self) -> Connection:
        """A new connection; starts the engine when it is ours and away."""
        early, self.settings.early = self.settings.early, None
        if early is not None:
            return early
        try:
            return Connection(_dial(self.settings.address))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not self._may_start:
                raise self._away(error) from None
        except OSError as error:
            raise self._away(error) from None
        from .launch import start_engine

        start_engine(self.settings)
        try:
            return Connection(_dial(self.settings.address))
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
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        *,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> tuple[int, Any]:
        """Status and JSON of one exchange on the shared connection; *meanwhile* is done while the engine works on it."""

        def exchange(connection: Connection) -> tuple[Connection, Response]:
            try:
                connection.send(method, target(path, query), _encoded(body), headers=_headers(body, None))
                meanwhile()
                return connection, connection.receive(head_only=method == "HEAD")
            except ConnectionLost:
                connection.close()
                raise

        old, self._idle = self._idle, None
        if old is not None and not old.is_open():
            old.close()
            old = None
        if old is None:
            connection, response = exchange(self.connect())
        else:
            try:
                connection, response = exchange(old)
            except ConnectionLost as error:
                if not (error.unsent or (error.unanswered and method in ("GET", "HEAD"))):
                    raise
                connection, response = exchange(self.connect())
        try:
            return response.status, checked(response).json()
        finally:
            if connection.reusable and response.is_read:
                self._idle = connection
            else:
                connection.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None, **more: Any) -> Any:
        return self.request("GET", path, query, **more)[1]

    def post(self, path: str, query: Mapping[str, Any] | None = None, body: object = None, **more: Any) -> Any:
        return self.request("POST", path, query, body, **more)[1]

    def delete(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return self.request("DELETE", path, query)[1]

    def upgrade(self, path: str, query: Mapping[str, Any] | None = None, body: object = None) -> tuple[socket, bytes]:
        """POST that turns the connection into a raw stream (attach, exec start)."""
        return upgraded(self.send("POST", path, query, body, headers=UPGRADE))


def upgraded(connection: Connection) -> tuple[socket, bytes]:
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
        from .textjson import loads

        answer = loads(body)
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
            from .textjson import dumps

            value = dumps(value)
        words.append(f"{key}={quote('1' if value is True else str(value))}")
    return f"/v{API_VERSION}{path}" + ("?" + "&".join(words) if words else "")


_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")  # RFC 3986, unreserved


def quote(text: str, also: bytes = b"") -> str:
    """Percent-encode *text* (urllib.parse costs 6 ms); the bytes of *also* are left as they are."""
    return "".join(chr(b) if b in _SAFE or b in also else f"%{b:02X}" for b in text.encode("utf-8", "surrogateescape"))


def _headers(body: object, headers: Mapping[str, str] | None) -> dict[str, str]:
    return {**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})}


def _encoded(body: object) -> bytes:
    if body is None:
        return b""
    from .textjson import dumps

    return dumps(body).encode()
