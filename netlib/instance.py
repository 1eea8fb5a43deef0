"""The mark of one pynet on a host: everything it makes can be found, and told apart from a second pynet's, without its
store.

The mark is derived from the root directory, so it is the same after a crash and after the loss of the store.  The
default root has the plain names that documentation and users' own rules can rely on.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ROOT = Path("/var/lib/pynet")
DEFAULT_RUN = Path("/run/pynet")


@dataclass(frozen=True)
class Instance:
    """Where an instance lives and how its things are marked."""

    root: Path
    run: Path

    @classmethod
    def at(cls, root: Path | str | None = None, run: Path | str | None = None) -> Instance:
        """The instance with these directories; None takes PYNET_ROOT, PYNET_RUN, then the defaults."""
        return cls(
            Path(root or os.environ.get("PYNET_ROOT") or DEFAULT_ROOT).absolute(),
            Path(run or os.environ.get("PYNET_RUN") or DEFAULT_RUN).absolute(),
        )

    @property
    def digest(self) -> str:
        """Eight hex digits that stand for the root directory."""
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:8]

    @property
    def suffix(self) -> str:
        """For names of tables and chains: empty for the default root, else the digest."""
        return "" if self.root == DEFAULT_ROOT else self.digest

    @property
    def link_group(self) -> int:
        """IFLA_GROUP of every link of ours (positive as a signed 32-bit number, never the default group 0)."""
        return int(self.digest, 16) & 0x3FFFFFFF | 0x40000000

    @property
    def dying_group(self) -> int:
        """The link group of what is about to be deleted (reaper.py); never an instance's ``link_group``, whose bit 30 is set."""
        return int(self.digest, 16) & 0x1FFFFFFF | 0x20000000

    @property
    def dying_bridges_group(self) -> int:
        """The same for bridges, which are deleted one by one."""
        return int(self.digest, 16) & 0x0FFFFFFF | 0x10000000

    @property
    def cgroup(self) -> str:
        """Parent of the containers' cgroups, relative to each hierarchy's own."""
        return "pynet" if not self.suffix else f"pynet-{self.suffix}"

    @property
    def netns_dir(self) -> Path:
        return self.run / "netns"


def bridge_name(network_id: str) -> str:
    """IFNAMSIZ leaves 15 bytes: "pb" and twelve digits of the id, as Docker's "br-" and twelve."""
    return f"pb{network_id[:12]}"


def veth_name(endpoint_id: str) -> str:
    return f"pv{endpoint_id[:12]}"


def own_parent_name(network_id: str) -> str:
    """What endpoints of a macvlan or ipvlan network stand on that has no interface of the host."""
    return f"pm{network_id[:12]}"


def host_link_name(network_id: str) -> str:
    """The host's own interface beside its containers' (kinds/host_access.py)."""
    return f"ph{network_id[:12]}"
