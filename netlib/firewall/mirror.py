"""What a back end has put into the kernel, and how it is put right: alike for nftables and iptables.

    change -> the kernel refuses, or a part of it fails -> ``_put`` all that the mirror says, once more
           -> done                                      -> the mirror learns of it last

Should putting it right fail too, the mirror is *stale*: the next change writes all anew.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from ..errors import PynetError
from .coexist import Coexistence
from .intents import NetworkRules, PortKey, PortRule, check_network, check_port


class Mirrored(ABC):
    """The part of a FirewallBackend that knows what is there."""

    _others: Coexistence
    """Our ACCEPTs in the chains of others."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._networks: dict[str, NetworkRules] = {}
        self._ports: dict[PortKey, PortRule] = {}
        self._ready = False
        self._stale = False  # found altered by others

    @abstractmethod
    def ensure(self) -> None: ...

    @abstractmethod
    def state(self) -> tuple[list[NetworkRules], list[PortRule]]: ...

    @abstractmethod
    def _put(self, networks: dict[str, NetworkRules], ports: dict[PortKey, PortRule]) -> None:
        """Have the kernel hold exactly this of ours, whatever it held; the mirror is not stale after it."""

    def replace(self, networks: Iterable[NetworkRules], ports: Iterable[PortRule]) -> None:
        wanted = {rules.bridge: rules for rules in map(check_network, networks)}
        published = {rule.key: rule for rule in map(check_port, ports)}
        with self._lock:
            if not self._ready:
                self.ensure()
            self._write(wanted, published)

    def diagnose(self) -> list[str]:
        with self._lock:
            networks, ports = self.state()
            return self._others.diagnose(networks, ports)

    def _begin(self) -> None:
        if not self._ready:
            self.ensure()
        elif self._stale:
            self._write(self._networks, self._ports)

    def _write(self, networks: dict[str, NetworkRules], ports: dict[PortKey, PortRule]) -> None:
        """Make exactly this be there, or leave all as it was."""
        with self._as_before():
            self._put(networks, ports)
            self._others.sync(networks)
        self._networks, self._ports = networks, ports

    @contextmanager
    def _as_before(self) -> Generator[None]:
        """When the block fails, have the kernel hold again what the mirror says, our ACCEPTs elsewhere included."""
        try:
            yield
        except BaseException as error:
            self._stale = True  # should it fail: the next change writes all anew
            try:
                self._put(self._networks, self._ports)
                self._others.sync(self._networks)
            except (OSError, PynetError) as problem:
                error.add_note(f"while putting the rules back: {problem}")
            raise
