"""The legacy programs of iptables: which of a host's commands speak to the old kernel interface."""

from __future__ import annotations

import os
import shutil


def legacy_program(family: int, verb: str) -> str | None:
    """Path of ``iptables-legacy-<verb>``, or of ``iptables-<verb>`` where that is the legacy one; None without."""
    stem = "ip6tables" if family == 6 else "iptables"
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(f"{stem}-legacy-{verb}", path=path)
    if found is None:
        found = shutil.which(f"{stem}-{verb}", path=path)
        if found is not None and "legacy" not in os.path.basename(os.path.realpath(found)):
            return None
    return found
