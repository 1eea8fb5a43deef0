"""Which firewall back end serves this host.  The one module that knows both; nothing that they import knows it."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import InvalidArgument, NotSupported, PynetError
from .intents import FirewallBackend


def _nftables(instance: str) -> FirewallBackend:
    from .nftables.backend import (
        NftablesBackend,  # imported when it is chosen: a controller without networks needs none
    )

    return NftablesBackend(instance)


def _iptables(instance: str) -> FirewallBackend:
    from .iptables.backend import IptablesBackend

    return IptablesBackend(instance)


BACKENDS: dict[str, Callable[[str], FirewallBackend]] = {"nftables": _nftables, "iptables": _iptables}
"""In the order in which "auto" tries them."""


def select_backend(name: str = "auto", instance: str = "") -> FirewallBackend:
    """The back end *name* ("nftables", "iptables", "auto") for the calling thread's network namespace.

    "auto" is nftables where it works, else iptables.  A host whose iptables command is the nf_tables variant is
    served by nftables: both speak to the same kernel code, and python-iptables does not see such rules.  NotSupported
    says what is missing.  Nothing is changed yet; ``ensure`` does that.
    """
    if name != "auto" and name not in BACKENDS:
        raise InvalidArgument(f"unknown firewall back end {name!r}", hint=f"one of auto, {', '.join(BACKENDS)}")
    missing: list[PynetError] = []
    for make in BACKENDS.values() if name == "auto" else (BACKENDS[name],):
        try:
            return make(instance)
        except NotSupported as error:
            missing.append(error)
    raise NotSupported(
        "no firewall back end works here: " + "; ".join(error.message for error in missing)
        if len(missing) > 1
        else missing[0].message,
        hint="; or ".join(error.hint for error in missing if error.hint),
    )
