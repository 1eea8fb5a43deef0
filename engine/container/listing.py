"""Which containers a list shows: the filters of ``GET /containers/json`` (moby, daemon/list.go)."""

from __future__ import annotations

from collections.abc import Callable

from ...netlib.errors import InvalidArgument, NotFound
from ...netlib.ports.portspec import parse_expose
from ...runtime.images.store import ImageStore
from ..filters import Filters
from ..patterns import matcher
from .record import Container
from .registry import Registry
from .shapes import exposed_ports

LIST_FILTERS = frozenset(
    [
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    ]
)
STATUSES = frozenset(["created", "restarting", "running", "removing", "paused", "exited", "dead"])


class Listing:
    """The filters of one request, with what they refer to looked up once."""

    def __init__(
        self,
        filters: Filters,
        *,
        everything: bool,
        registry: Registry,
        images: ImageStore,
        published: Callable[[Container], set[str]],
    ) -> None:
        self._filters = filters
        self._published = published
        self._everything = everything or bool(filters.values("exited"))
        for status in filters.values("status"):
            if status not in STATUSES:
                raise InvalidArgument(f"invalid filter 'status={status}'", hint=f"one of {', '.join(sorted(STATUSES))}")
        try:
            self._codes = [int(code) for code in filters.values("exited")]
        except ValueError:
            raise InvalidArgument(
                f"invalid filter 'exited={filters.values('exited')}'", hint="it is an exit code, as exited=0"
            ) from None
        self._before = min((registry.get(ref).created for ref in filters.values("before")), default=None)
        self._since = max((registry.get(ref).created for ref in filters.values("since")), default=None)
        self._is_named = matcher(filters.values("name"), "/")  # Docker's names have a slash
        self._images = set[str]()
        for ref in filters.values("ancestor"):
            try:
                self._images.add(images.get(ref).id)
            except (NotFound, InvalidArgument):
                pass  # an image that is not there is nobody's ancestor
        self._ports = {
            kind: {port for text in filters.values(kind) for port in parse_expose(text, f"the filter {kind}")}
            for kind in ("publish", "expose")
        }

    def wants(self, container: Container) -> bool:
        filters, state = self._filters, container.state
        if not self._everything and not container.running:
            return False
        if filters.values("status") and state.status not in filters.values("status"):
            return False
        if self._codes and (container.running or state.exit_code not in self._codes or not state.finished):
            return False
        if self._before is not None and container.created >= self._before:
            return False
        if self._since is not None and container.created <= self._since:
            return False
        if filters.values("ancestor") and container.image_id not in self._images:
            return False
        return (
            filters.matches("id", container.id.startswith)
            and self._is_named(container.name)
            and filters.labels(container.labels)
            and filters.exact("health", "none")
            and filters.matches("network", lambda value: self._on_network(container, value))
            and filters.matches(
                "volume", lambda value: any(value in (p.name, p.target, p.source) for p in container.mounts)
            )
            and self._has_ports(container)
        )

    def _on_network(self, container: Container, value: str) -> bool:
        return any(
            value == name or (bool(entry["network_id"]) and entry["network_id"].startswith(value))
            for name, entry in list(container.networks.items())
        )

    def _has_ports(self, container: Container) -> bool:
        if self._ports["expose"] and not self._ports["expose"].intersection(exposed_ports(container)):
            return False
        return not self._ports["publish"] or bool(self._ports["publish"] & self._published(container))
