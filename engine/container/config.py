"""``Config`` of a create request: checked, completed with the image's, as inspect shows it.  Pure.

What the request leaves out comes from the image (moby, daemon/commit.go ``merge``): environment by name, labels, ports and
volumes by union; command and entrypoint together, since a new entrypoint makes the image's command meaningless.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from ...netlib.errors import InvalidArgument
from ...netlib.ports.portspec import parse_expose
from ...runtime.grammar.environment import DEFAULT_PATH
from ..fields import Fields, is_word

_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9_.-]{1,63}(?<!-)\Z")
_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")

MAX_STOP_TIMEOUT = (1 << 31) - 1
"""Seconds; a negative one waits for ever."""


def check_name(name: str) -> str:
    """A container's name without the leading slash; InvalidArgument with Docker's text."""
    if not _NAME.match(name):
        raise InvalidArgument(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            hint="two characters or more: letters, digits, _ . and -, a letter or a digit first",
        )
    return name.removeprefix("/")


def parse_signal(text: str) -> int:
    """ "TERM", "SIGTERM", "15", "RTMIN+3" to the number."""
    word = text.strip().upper()
    if word.isdigit():
        number = int(word)
        if 1 <= number <= 64:
            return number
        raise InvalidArgument(
            f"invalid signal: {text}", hint="give a name or a number that signal(7) lists, for example TERM or 9"
        )
    match = re.fullmatch(r"(?:SIG)?(RTMIN|RTMAX)(?:([+-])(\d{1,2}))?", word)
    if match:
        base, offset = (34 if match[1] == "RTMIN" else 64), int(match[3] or 0)
        number = base + (offset if match[2] == "+" else -offset)
        if 34 <= number <= 64:
            return number
        raise InvalidArgument(
            f"invalid signal: {text}", hint="give a name or a number that signal(7) lists, for example TERM or 9"
        )
    found = getattr(signal, word if word.startswith("SIG") else f"SIG{word}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidArgument(
            f"invalid signal: {text}", hint="give a name or a number that signal(7) lists, for example TERM or 9"
        )
    return int(found)


def merge_env(image: list[str], own: list[str]) -> list[str]:
    """The request's variables, then those of the image that it does not name; Docker's order."""
    for item in own:
        if not item or item.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {item}")
    named = {item.partition("=")[0] for item in own}
    return [*own, *(item for item in image if item.partition("=")[0] not in named)]


def _image_fields(image: Mapping[str, Any]) -> Fields:
    return Fields(image, "image config ")


def complete_config(body: Mapping[str, Any], image: Mapping[str, Any], hostname: str) -> dict[str, Any]:
    """The full ``Config``.  *image* is the image's ``config`` object, *hostname* the default."""
    own, base = Fields(body), _image_fields(image)
    name = own.text("Hostname")
    if name and not _HOSTNAME.match(name):
        raise InvalidArgument(f"invalid hostname format: {name}")
    domain = own.text("Domainname")
    if domain and not is_word(domain):
        raise InvalidArgument(f"invalid domain name format: {domain!r}".replace("'", '"'))
    exposed: dict[str, dict[str, str]] = {}
    for text in [*base.keys("ExposedPorts"), *own.keys("ExposedPorts")]:
        exposed |= {key: {} for key in parse_expose(text, "ExposedPorts")}
    entrypoint, command = own.command("Entrypoint"), own.command("Cmd")
    if not entrypoint and not command:
        command = base.command("Cmd")
    if entrypoint is None:
        entrypoint = base.command("Entrypoint")
    elif entrypoint == [""]:
        # the client's way to say "without the image's entrypoint" (docker run --entrypoint "")
        entrypoint = None
    working = own.text("WorkingDir") or base.text("WorkingDir")
    if working and not working.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{working}' is invalid, it needs to be an absolute path",
            hint="give a directory of the container that begins with /",
        )
    stop_signal = own.text("StopSignal") or base.text("StopSignal")
    if stop_signal:
        parse_signal(stop_signal)
    config: dict[str, Any] = {
        "Hostname": name or hostname,
        "Domainname": domain,
        "User": own.text("User") or base.text("User"),
        "AttachStdin": own.boolean("AttachStdin"),
        "AttachStdout": own.boolean("AttachStdout"),
        "AttachStderr": own.boolean("AttachStderr"),
        "Tty": own.boolean("Tty"),
        "OpenStdin": own.boolean("OpenStdin"),
        "StdinOnce": own.boolean("StdinOnce"),
        "Env": merge_env(base.strings("Env") or [f"PATH={DEFAULT_PATH}"], own.strings("Env")),
        "Cmd": command,
        "Image": own.text("Image"),
        "Volumes": {target: {} for target in [*base.keys("Volumes"), *own.keys("Volumes")]} or None,
        "WorkingDir": working,
        "Entrypoint": entrypoint,
        "Labels": {**base.string_map("Labels"), **own.string_map("Labels")},
    }
    if exposed:
        config["ExposedPorts"] = exposed
    if stop_signal:
        config["StopSignal"] = stop_signal
    if own.has("StopTimeout"):
        config["StopTimeout"] = own.integer("StopTimeout", least=-MAX_STOP_TIMEOUT, most=MAX_STOP_TIMEOUT)
    if own.has("MacAddress"):
        config["MacAddress"] = own.text("MacAddress")
    for name in ("OnBuild", "Shell"):
        if own.strings(name):
            config[name] = own.strings(name)
    for health in (own.object("Healthcheck"), base.object("Healthcheck")):
        if health.body:
            config["Healthcheck"] = _healthcheck(health)
            break
    command_line(config)
    return config


def _healthcheck(fields: Fields) -> dict[str, Any]:
    """Kept for inspect, so of the types that clients read it with."""
    checked: dict[str, Any] = {}
    for name, value in fields.body.items():
        if name == "Test":
            checked[name] = fields.strings(name)
        elif name in ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries") and value is not None:
            checked[name] = fields.integer(name)
    return checked


def command_line(config: Mapping[str, Any]) -> list[str]:
    """What is executed; InvalidArgument when nothing is."""
    line = [*(config["Entrypoint"] or ()), *(config["Cmd"] or ())]
    if not line or not line[0]:
        raise InvalidArgument("no command specified")
    return line
