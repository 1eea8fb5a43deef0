"""What a back end has put into the kernel, and how it is put right: alike for nftables and iptables.

    change -> the kernel refuses, or a part of it fails -> ``_put`` all that the mirror says, once more
           -> done                                      -> the mirror learns of it last

Should putting it right fail too, the mirror is *stale*: the next change writes all anew.

What others do to it meanwhile is found by ``mend``, when somebody (watch.py) has a reason to look.
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
        self._seen: object = None

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

    def mend(self, *, whole: bool = True) -> bool:
        """Put back what others took: compare the kernel with what was put there.  Whether something was not as it should be.

        Without *whole*, only our ACCEPTs in the chains of others are looked after, which is cheap.
        """
        with self._lock:
            if not self._ready:
                return False
            if whole:
                networks, ports = self.state()
                if self._stale or not self._is_mirrored(networks, ports):
                    self._write(self._networks, self._ports)
                    return True
            changed = self._others.sync(self._networks)
            self._note()
            return changed

    def _is_mirrored(self, networks: list[NetworkRules], ports: list[PortRule]) -> bool:
        return set(networks) == set(self._networks.values()) and set(ports) == set(self._ports.values())

    def disturbed(self) -> bool:
        """Whether legacy tables, which tell nobody of their changes, have another number of rules than after our last change."""
        with self._lock:
            return self._ready and self._others.counts() != self._seen

    def _note(self) -> None:
        """At the end of each change of ours in what ``disturbed`` looks at."""
        self._seen = self._others.counts()

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
        self._note()

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
