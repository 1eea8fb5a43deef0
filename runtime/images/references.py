"""Image references: how Docker's clients write the name of an image.

    busybox              docker.io/library/busybox:latest
    me/app:1.2           docker.io/me/app:1.2
    localhost:5000/a@sha256:...

The grammar and the error texts are those of github.com/distribution/reference (regexp.go, normalize.go).  Two forms
exist: *canonical* (``str``), which the store keeps, and *familiar*, which people see.  Pure; no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import InvalidReference

DEFAULT_DOMAIN, LEGACY_DOMAIN, OFFICIAL_PREFIX, DEFAULT_TAG = "docker.io", "index.docker.io", "library/", "latest"
NAME_MAX = 255

_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_PART}(?:\.{_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?", re.ASCII)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}", re.ASCII)
_FULL_ID = re.compile(r"[a-f0-9]{64}", re.ASCII)
_ID_PREFIX = re.compile(r"(?:sha256:)?([a-f0-9]{1,64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed name; ``tag`` and ``digest`` are empty when they were not written."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: without the default domain and ``library/``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(OFFICIAL_PREFIX)
        return self.path if "/" in rest else rest

    @property
    def familiar(self) -> str:
        return self.familiar_name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def tagged(self) -> Reference:
        """The same with ``latest``, unless a tag or a digest was written."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def __str__(self) -> str:
        return self.name + self._suffix

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse and normalise; InvalidReference when *text* is not a reference."""
        if _FULL_ID.fullmatch(text):
            raise InvalidReference(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
        domain, remainder = _split_domain(text)
        rest, _, digest = remainder.partition("@")
        path, colon, tag = rest.partition(":")
        if path != path.lower():
            raise InvalidReference(f"invalid reference format: repository name ({path}) must be lowercase")
        valid = (
            _DOMAIN.fullmatch(domain)
            and _PATH.fullmatch(path)
            and (not colon or _TAG.fullmatch(tag))
            and ("@" not in remainder or _DIGEST.fullmatch(digest))
        )
        if not valid:
            raise InvalidReference
        if len(domain) + 1 + len(path) > NAME_MAX:
            raise InvalidReference(f"repository name must not be more than {NAME_MAX} characters")
        return cls(domain, path, tag, digest)


def _split_domain(text: str) -> tuple[str, str]:
    """The first component is a domain when it has a dot, a port, capitals, or is ``localhost``."""
    first, slash, rest = text.partition("/")
    is_domain = slash and (any(c in first for c in ".:") or first == "localhost" or first != first.lower())
    domain, remainder = (first, rest) if is_domain else (DEFAULT_DOMAIN, text)
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = OFFICIAL_PREFIX + remainder
    return domain, remainder


def id_prefix(text: str) -> str:
    """The hexadecimal digits when *text* may be an image id or the beginning of one, else ``""``."""
    match = _ID_PREFIX.fullmatch(text)
    return match[1] if match else ""
