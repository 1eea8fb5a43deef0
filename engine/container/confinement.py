"""What a container's process may do: capabilities, system calls, masked paths.  Judged once, at the create.  Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ...netlib.errors import InvalidArgument
from ...runtime.grammar.capabilities import NAMES
from ...runtime.spec import DEFAULT_CAPABILITIES, MASKED_PATHS, READONLY_PATHS
from ..fields import Fields

_HINT = "no-new-privileges, seccomp=unconfined, seccomp=builtin, seccomp=PROFILE and systempaths=unconfined are known"


@dataclass(frozen=True)
class Confinement:
    """The defaults are those of a container that asks for nothing."""

    capabilities: list[str] = field(default_factory=lambda: list(DEFAULT_CAPABILITIES))
    """Without "CAP_", in the order of NAMES."""
    no_new_privileges: bool = False
    seccomp: str = "default"
    """"default", "unconfined" or the JSON of a profile."""
    masked_paths: list[str] = field(default_factory=lambda: list(MASKED_PATHS))
    readonly_paths: list[str] = field(default_factory=lambda: list(READONLY_PATHS))


def confine(host: Fields) -> tuple[Confinement, list[str]]:
    """A ``HostConfig``'s confinement, and the warnings that go with it."""
    privileged = host.boolean("Privileged")
    no_new_privileges, seccomp, open_paths, warnings = security(host.strings("SecurityOpt"))
    masked: list[str] = [*MASKED_PATHS]
    readonly: list[str] = [*READONLY_PATHS]
    if host.has("MaskedPaths"):  # [] is an answer as well: nothing is masked
        masked = _paths(host, "MaskedPaths")
    if host.has("ReadonlyPaths"):
        readonly = _paths(host, "ReadonlyPaths")
    if open_paths or privileged:
        masked, readonly = [], []
    chosen = capabilities(host.strings("CapAdd"), host.strings("CapDrop"), privileged)
    return Confinement(chosen, no_new_privileges, "unconfined" if privileged else seccomp, masked, readonly), warnings


def _paths(host: Fields, name: str) -> list[str]:
    paths = host.strings(name)
    for path in paths:
        if not path.startswith("/") or ".." in path.split("/"):
            raise InvalidArgument(f"{host.where}{name}: {path!r} is no absolute path".replace("'", '"'))
    return paths


def _capability(text: str) -> str:
    name = text.upper().removeprefix("CAP_")
    if name != "ALL" and name not in NAMES:
        raise InvalidArgument(f'invalid capability: "{text}"', hint="capabilities(7) lists them; ALL means all")
    return name


def capabilities(add: list[str], drop: list[str], privileged: bool = False) -> list[str]:
    """The container's set, in the order of NAMES (moby, oci/caps TweakCapabilities)."""
    added, dropped = {_capability(text) for text in add}, {_capability(text) for text in drop}
    if privileged:
        return list(NAMES)
    base = set(NAMES if "ALL" in added else DEFAULT_CAPABILITIES)
    if "ALL" in dropped:
        base = set()
    if "ALL" in added and "ALL" not in dropped:
        chosen = base - dropped
    else:
        chosen = (base - dropped) | (added - {"ALL"})
    return [name for name in NAMES if name in chosen]


def _seccomp(value: str) -> str:
    """What the specification says: clients send a profile's text, not its file's name."""
    if value in ("unconfined", "builtin", "default"):
        return "unconfined" if value == "unconfined" else "default"
    try:
        profile = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}", hint=_HINT) from None
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise InvalidArgument("Decoding seccomp profile failed: it has no defaultAction", hint=_HINT)
    return value


def security(options: list[str]) -> tuple[bool, str, bool, list[str]]:
    """``SecurityOpt`` to (no_new_privileges, seccomp, no path is masked, warnings)."""
    no_new_privileges, seccomp, open_paths, warnings = False, "default", False, list[str]()
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        if key == "no-new-privileges":
            if value not in ("", "true", "false"):
                raise InvalidArgument(f'invalid --security-opt 2: "{option}"', hint=_HINT)
            no_new_privileges = value != "false"
        elif key == "seccomp":
            seccomp = _seccomp(value)
        elif key == "systempaths":
            if value != "unconfined":
                raise InvalidArgument(f'invalid --security-opt 2: "{option}"', hint=_HINT)
            open_paths = True
        elif key in ("apparmor", "label", "writable-cgroups"):
            warnings.append(f"security option {option} has no effect: {key} is not used by this engine")
        else:
            raise InvalidArgument(f'invalid --security-opt 2: "{option}"', hint=_HINT)
    return no_new_privileges, seccomp, open_paths, warnings
