"""A container as pynetd keeps it: the record in the store, and what only lives in memory (lock, waiters).

    created --> running <--> paused
                 |  ^ \\
                 v  |  `--> restarting        (the supervisor does that by itself, we follow)
               exited --> removing --> gone

The record is the user's intent and the last state known; the truth about a process is the supervisor's and the truth about
links and ports the controller's.  A start compares and follows them (recovery.py).

Rule for locks: ``Container.lock`` is held by whoever changes the state, and never while waiting for the container to
exit; what follows an exit takes it.  No two containers' locks are held at once.  A start may hold it for seconds, so
neither the event loop nor a list of all containers takes it: they read ``state``, ``networks``, ``config`` and
``host_config``, whose values are put in place whole.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ...netlib.ports.portspec import PortBinding
from .confinement import Confinement
from .mounts import MountPoint

Body = dict[str, Any]

RUNNING = frozenset({"running", "paused", "restarting"})
"""States in which the container holds its network; Docker's ``State.Running`` is true in them."""


def binding_body(binding: PortBinding) -> Body:
    return {name: getattr(binding, name) for name in PortBinding.__slots__}


@dataclass(frozen=True)
class State:
    """Replaced whole (``Container.change``), so that whoever reads it without the lock sees one moment."""

    status: str = "created"
    """"created", "running", "paused", "restarting", "exited" or "removing"."""
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started: float = 0.0
    """Unix seconds; 0 is never."""
    finished: float = 0.0
    oom_killed: bool = False
    restarts: int = 0
    stopped_by_user: bool = False
    """Stopped or killed on request: ``unless-stopped`` does not start it again."""
    volumes_too: bool = False
    """Its removal takes its anonymous volumes along, also one that is finished after a kill."""


@dataclass
class Container:
    """One container.  ``networks`` maps a network's name to what was asked for there and what came of it:

    {"settings": EndpointSettings of the request, "network_id": str, "endpoint_id": str,
     "kept_id": str, of the endpoint that keeps a stopped container's static addresses; missing in older stores}
    """

    id: str
    name: str
    created: float
    image_id: str
    config: Body
    host_config: Body
    rootfs: Body
    mounts: list[MountPoint]
    networks: dict[str, Body]
    bindings: list[PortBinding] = field(default_factory=list)
    """What is to be published, as it was read from ``host_config`` once."""
    confinement: Confinement = field(default_factory=Confinement)
    """What the process may do, as it was judged from ``host_config`` once."""
    state: State = field(default_factory=State)

    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    waiters: dict[str, list[Future[int]]] = field(default_factory=dict, repr=False, compare=False)
    waiting: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Guards ``waiters``; held for a moment only, so the event loop may take it."""
    ending: bool = field(default=False, repr=False, compare=False)
    """Whether it has exited and "exit" is still to be announced: its network and its ports are being taken down."""
    unlinked: bool = field(default=False, repr=False, compare=False)
    """Whether nothing leads to it over links any more, because its place on the network is being taken down."""
    inbox: deque[Body] = field(default_factory=deque, repr=False, compare=False)
    """Events of the supervisor that were not looked at yet."""
    removal: bool = field(default=False, repr=False, compare=False)
    """Whether somebody is removing it just now."""
    removal_error: str = field(default="", repr=False, compare=False)
    """Why ``--rm`` could not remove it; it is tried again."""
    kept: int = field(default=0, repr=False, compare=False)
    """How many restarts by users are under way: ``--rm`` spares it meanwhile, it is started again."""
    supervised: bool = field(default=False, repr=False, compare=False)
    """Whether the supervisor has a record of it."""

    _SAVED = ("id", "name", "created", "image_id", "config", "host_config", "rootfs", "networks")

    def to_body(self) -> Body:
        # not dataclasses.asdict: it copies every list, and was a fifth of what a start costs here
        body = {key: getattr(self, key) for key in self._SAVED}
        body["mounts"] = [point.to_body() for point in self.mounts]
        body["bindings"] = [binding_body(binding) for binding in self.bindings]
        body["confinement"] = {**vars(self.confinement)}
        body["state"] = {**vars(self.state)}
        return body

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Container:
        known = {f.name for f in dataclasses.fields(State)}
        state = State(**{key: value for key, value in body["state"].items() if key in known})
        return cls(
            **{key: body[key] for key in cls._SAVED},
            mounts=[MountPoint.from_body(point) for point in body["mounts"]],
            bindings=[PortBinding(**binding) for binding in body["bindings"]],
            confinement=Confinement(**body["confinement"]),
            state=state,
        )

    def change(self, **fields: Any) -> None:
        """Put a new ``state`` in place of the old one.  Call under the lock."""
        self.state = dataclasses.replace(self.state, **fields)

    # -- short views -----------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.state.status in RUNNING

    @property
    def ends_later(self) -> bool:
        """Whether an "exit" is still to be announced."""
        return self.running or self.ending

    @property
    def tty(self) -> bool:
        return bool(self.config["Tty"])

    @property
    def auto_remove(self) -> bool:
        return bool(self.host_config["AutoRemove"])

    @property
    def network_mode(self) -> str:
        return str(self.host_config["NetworkMode"])

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.config["Labels"]
        return labels

    def attributes(self, **more: str) -> dict[str, str]:
        """Attributes of the container's events."""
        return {**self.labels, "image": self.config["Image"], "name": self.name, **more}

    # -- waiting ---------------------------------------------------------------------------------------------

    def expect(self, what: str) -> Future[int]:
        """A future for the next "started", "exit" or "removed"; its result is the exit code.

        Who has no lock expects first and looks at the state afterwards: then nothing can be missed in between.
        """
        future: Future[int] = Future()
        with self.waiting:
            self.waiters.setdefault(what, []).append(future)
        return future

    def announce(self, what: str) -> None:
        """Fulfil everybody who expects *what*.  Call under the lock."""
        self.ending = False
        with self.waiting:
            told = self.waiters.pop(what, [])
        for future in told:
            if future.set_running_or_notify_cancel():
                future.set_result(self.state.exit_code)

    def forget(self, what: str, future: Future[int]) -> None:
        """Withdraw an expectation."""
        with self.waiting:
            waiting = self.waiters.get(what)
            if waiting and future in waiting:
                waiting.remove(future)
