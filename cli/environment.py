"""``-e``, ``--env-file`` and ``--label-file``: variables of this process and of files, as ``run`` and ``exec`` take them."""

from __future__ import annotations

import os

from .units import BadOption, InvalidValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def gather_environment(words: list[str], files: list[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """``-e`` and ``--env-file`` -> ["NAME=VALUE", ...]; what the options say outranks the files."""
    return [line for path in files for line in settings_in(path, environ)] + [
        found for word in words if (found := _variable(word, environ)) is not None
    ]


def _variable(word: str, environ: Mapping[str, str]) -> str | None:
    """``NAME=VALUE`` as it is; ``NAME`` with this process's value, or None when it has none."""
    if not word or word.startswith("="):
        raise InvalidValue("environment variable", word, "write NAME=VALUE")
    if "=" in word:
        return word
    return f"{word}={environ[word]}" if word in environ else None


def settings_in(path: str, environ: Mapping[str, str]) -> list[str]:
    """The settings in an --env-file or --label-file: one a line; # comments and empty lines are skipped."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.lstrip() for line in file.read().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        text = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise BadOption(f"cannot read {path}: {text}", hint="the file has one NAME=VALUE a line") from None
    found: list[str] = []
    for line in lines:
        if not line or line.startswith("#"):
            continue
        if " " in line.partition("=")[0] or line.startswith("="):
            raise BadOption(f"{path}: invalid line {line!r}", hint="the file has one NAME=VALUE a line")
        value = _variable(line, environ)
        if value is not None:
            found.append(value)
    return found
