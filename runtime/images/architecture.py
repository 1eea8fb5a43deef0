"""The host's architecture as GOARCH names it, which OCI and Docker's API prescribe."""

from __future__ import annotations

import os

_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}


def host_architecture() -> str:
    machine = os.uname().machine
    return _NAMES.get(machine, machine)
