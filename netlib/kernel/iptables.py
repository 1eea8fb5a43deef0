"""The iptables back end, for hosts whose kernel lacks nf_tables."""

from __future__ import annotations

from ..errors import NotSupported
from .nftables import NftablesBackend


class IptablesBackend(NftablesBackend):
    """Not there yet."""

    name = "iptables"

    def __init__(self, instance: str = "") -> None:
        raise NotSupported(f"the iptables back end is not available (instance {instance!r})", hint="use nftables")
