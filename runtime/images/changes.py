"""Dockerfile instructions that change an image's configuration (``pynet import --change``).

Pure: a configuration in, a changed one out.  The instructions are those Docker takes for import and commit; the forms
are the Dockerfile reference's: ``CMD ["a","b"]`` runs as it is, ``CMD a b`` runs through ``/bin/sh -c``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import Any, cast

from ...netlib.errors import InvalidArgument
from ...netlib.ports.portspec import parse_expose


def apply_changes(config: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """*config* is the ``config`` object of an OCI image configuration; a new one is returned."""
    result = dict(config)
    for change in changes:
        instruction, _, rest = change.strip().partition(" ")
        handler = _HANDLERS.get(instruction.upper())
        if handler is None:
            raise InvalidArgument(
                f"{instruction} is not a valid change command", hint=f"use one of {', '.join(sorted(_HANDLERS))}"
            )
        rest = rest.strip()
        if not rest and instruction.upper() not in ("CMD", "ENTRYPOINT"):
            raise InvalidArgument(f"{instruction.upper()} requires at least one argument")
        handler(result, rest)
    return result


def _json_list(text: str) -> list[str] | None:
    """A JSON array of strings, or None: then it is the shell form."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, list):
        return None
    items: list[Any] = value
    return [str(item) for item in items] if all(isinstance(item, str) for item in items) else None


def _command(text: str) -> list[str]:
    words = _json_list(text)
    return words if words is not None else ["/bin/sh", "-c", text] if text else []


def _words(instruction: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"{instruction}: {error}: {text}") from error


def _pairs(instruction: str, text: str) -> list[tuple[str, str]]:
    """``k=v k2="v 2"``, or the old form ``k the rest``."""
    first = text.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise InvalidArgument(f"{instruction} must have two arguments")
        return [(first[0], first[1])]
    pairs: list[tuple[str, str]] = []
    for word in _words(instruction, text):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidArgument(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        pairs.append((key, value))
    return pairs


def _cmd(config: dict[str, Any], text: str) -> None:
    config["Cmd"] = _command(text)


def _entrypoint(config: dict[str, Any], text: str) -> None:
    config["Entrypoint"] = _command(text)


def _env(config: dict[str, Any], text: str) -> None:
    environment = list(cast(list[str], config.get("Env") or []))
    for key, value in _pairs("ENV", text):
        environment = [item for item in environment if item.partition("=")[0] != key] + [f"{key}={value}"]
    config["Env"] = environment


def _label(config: dict[str, Any], text: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs("LABEL", text))}


def _workdir(config: dict[str, Any], text: str) -> None:
    base = "" if text.startswith("/") else str(config.get("WorkingDir") or "/").rstrip("/") + "/"
    config["WorkingDir"] = base + text


def _user(config: dict[str, Any], text: str) -> None:
    config["User"] = text


def _expose(config: dict[str, Any], text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in text.split():
        ports |= {key: {} for key in parse_expose(word, "EXPOSE")}
    config["ExposedPorts"] = ports


def _volume(config: dict[str, Any], text: str) -> None:
    words = _json_list(text) or _words("VOLUME", text)
    config["Volumes"] = {**(config.get("Volumes") or {}), **{word: {} for word in words}}


def _stop_signal(config: dict[str, Any], text: str) -> None:
    config["StopSignal"] = text


_HANDLERS = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
