"""The engine's configuration file: Docker's daemon.json, in /etc/pynet.

    {"bip": "10.5.0.1/24",                                                          --bip 10.5.0.1/24
     "icc": false,                                                                  --icc=false
     "default-address-pools": [{"base": "10.50.0.0/16", "size": 24}],               --default-address-pool base=...,size=24
     "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}}} --default-network-opt bridge=...=1400

A key says what the option of its name does, so what follows knows of options alone.  A key that is given as an option too, one
that nobody knows or one that stands there twice, and a value of the wrong kind keep the engine from starting, as Docker's does
(moby, daemon/config): a slip in a file that is read once a month is else found by nobody.

The file is read when a user or a service manager starts the engine.  The start after a crash goes on with what was read then
(``own_command``): a file that is being edited must not keep the engine of running containers from coming back.
"""

from __future__ import annotations

import json
import math
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from ..netlib.errors import InvalidArgument
from .grammar import network_options

DEFAULT_PATH = "/etc/pynet/daemon.json"
VARIABLE = "PYNET_CONFIG_FILE"
MOST_BYTES = 1 << 20
FIREWALLS = ("auto", "nftables", "iptables")
PUBLISH_POLICIES = ("nat", "host-input")


class _Wrong(Exception):
    """A value is not what its key takes, which the text says: "a string"."""


def settle(arguments: Namespace) -> None:
    """Add the file's settings to the command line's; InvalidArgument when the file is wrong or says what an option says too."""
    if arguments.again:
        return
    named = arguments.config_file or os.environ.get(VARIABLE, "")
    path = named or DEFAULT_PATH
    try:
        for option, value in read(_load(path, needed=bool(named)), arguments).items():
            setattr(arguments, option, value)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"unable to configure the engine with file {path}: {error}",
            hint=error.hint or "`pynet daemon --validate` tries it",
        ) from None


def read(config: Mapping[str, Any], given: Namespace) -> dict[str, Any]:
    """The options that the file's object gives, by their names in the parsed command line, where *given* has the user's own."""
    unknown = sorted(set(config) - set(KEYS))
    if unknown:
        raise InvalidArgument(
            f"the following directives don't match any configuration option: {', '.join(unknown)}",
            hint=f"known here: {', '.join(KEYS)}",
        )
    fields = {key: _field(KEYS[key][0]) for key in config}
    twice = [key for key, field in fields.items() if getattr(given, field) not in (None, [])]
    if twice:
        shown = (
            f"{key}: (from flag: {_shown(getattr(given, fields[key]))}, from file: {_shown(config[key])})"
            for key in twice
        )
        raise InvalidArgument(
            f"the following directives are specified both as a flag and in the configuration file: {', '.join(shown)}",
            hint="leave one of them out",
        )
    values: dict[str, Any] = {}
    for key, value in config.items():
        try:
            values[fields[key]] = KEYS[key][1](value)
        except _Wrong as error:
            raise InvalidArgument(
                f"{key} must be {error}, which {_shown(value)} is not",
                hint=f"`pynet daemon --help` says what {KEYS[key][0]} is",
            ) from None
    return values


def _field(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# -- the file ------------------------------------------------------------------------------------------------------


def _load(path: str, *, needed: bool) -> dict[str, Any]:
    """The file's object; empty when there is no file and none was asked for, or nothing in it."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not needed:
            return {}
        raise InvalidArgument(f"open {path}: {error.strerror}", hint="name a file that is there") from None
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"open {path}: {getattr(error, 'strerror', error)}", hint="name a file that can be read"
        ) from None
    if len(data) > MOST_BYTES:
        raise InvalidArgument(f"it is longer than {MOST_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
        config = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"it is not JSON: {error or 'too deep'}") from None
    if not isinstance(config, dict):
        raise InvalidArgument("it is no JSON object")
    return config


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} stands there twice")
        found[key] = value
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


# -- what keys take: a value of the file -> the option's, as the command line would have it ------------------------


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _Wrong("a string")
    return value


def _one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def take(value: object) -> str:
        if value not in words:
            raise _Wrong(f"one of {', '.join(words)}")
        return str(value)

    return take


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise _Wrong("a whole number")
    return value


def _number_text(value: object) -> str:
    return str(_number(value))


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _Wrong("a number of seconds")
    return float(value)


def _switch(value: object) -> str:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return "true" if value else "false"


def _pools(value: object) -> list[str]:
    wanted = 'a list of objects like {"base": "10.50.0.0/16", "size": 24}'
    if not isinstance(value, list):
        raise _Wrong(wanted)
    texts: list[str] = []
    pool: object
    for pool in value:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(pool, dict) or set(pool) != {"base", "size"}:  # pyright: ignore[reportUnknownArgumentType]
            raise _Wrong(wanted)
        base, size = pool["base"], pool["size"]  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(base, str) or isinstance(size, bool) or not isinstance(size, int) or "," in base:
            raise _Wrong(wanted)
        texts.append(f"base={base},size={size}")
    return texts


def _network_opts(value: object) -> list[str]:
    wanted = 'an object like {"bridge": {"com.docker.network.driver.mtu": "1400"}}'
    if not isinstance(value, dict):
        raise _Wrong(wanted)
    texts: list[str] = []
    options: object
    for driver, options in value.items():  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(options, dict) or "=" in driver:
            raise _Wrong(wanted)
        for name, text in options.items():  # pyright: ignore[reportUnknownVariableType]
            if not isinstance(text, str) or "=" in name:
                raise _Wrong(wanted)
            texts.append(f"{driver}={name}={text}")
    return texts


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise _Wrong("a list of strings")
    texts: list[str] = []
    one: object
    for one in value:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(one, str) or "\0" in one:
            raise _Wrong("a list of strings")
        texts.append(one)
    return texts


KEYS: dict[str, tuple[str, Callable[[object], Any]]] = {
    **{option.removeprefix("--"): (option, _text) for option, _, _ in network_options.OPTIONS},
    **{option.removeprefix("--"): (option, _switch) for option, _ in network_options.SWITCHES},
    "mtu": ("--mtu", _number_text),
    "default-address-pools": (network_options.POOL, _pools),
    "default-network-opts": (network_options.NETWORK_OPT, _network_opts),
    "dns": ("--dns", _texts),
    "dns-search": ("--dns-search", _texts),
    "dns-opts": ("--dns-opt", _texts),
    "host-gateway-ips": ("--host-gateway-ip", _texts),
    "firewall-backend": ("--firewall", _one_of(FIREWALLS)),
    "publish-policy": ("--publish-policy", _one_of(PUBLISH_POLICIES)),
    "proxy-workers": ("--proxy-workers", _number),
    "proxy-drain": ("--proxy-drain", _seconds),
    "metrics-addr": ("--metrics-addr", _text),
}
"""Key to the option that it stands for and what its value may be."""
