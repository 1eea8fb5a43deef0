"""Who a container's process is: ``user`` and ``groups`` of the specification against the container's own files.

Pure functions over the text of /etc/passwd and /etc/group (passwd(5), group(5)); a line that does not parse is passed
over.  The rules and the error texts are those of moby/sys/user's GetExecUser, which Docker's users know: a number is
always an id and need not be listed; a name must be; supplementary groups come from the files unless a group is given, and
the primary group is always one of them.
"""

from __future__ import annotations

MAX_ID = (1 << 31) - 1
_MAX_DIGITS = 20
"""Longer numbers are none: int(3) of a hostile file's would be a ValueError of its own, or slow."""


class Identity:
    """The result of the look-up."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid, self.gid, self.groups, self.home = uid, gid, groups, home


def _entries(text: str, fields: int) -> list[list[str]]:
    found: list[list[str]] = []
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) >= fields and not line.startswith("#"):
            found.append(parts)
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def _checked(value: int) -> int:
    if value > MAX_ID:
        raise ValueError("uids and gids must be in range 0-2147483647")
    return value


def _group_id(name: str, groups: list[list[str]], message: str) -> int:
    number = _number(name)
    if number is not None:
        return _checked(number)
    for entry in groups:
        listed = _number(entry[2])
        if entry[0] == name and listed is not None:
            return listed
    raise ValueError(message)


def identify(user: str, extra_groups: list[str], passwd: str, group: str) -> Identity:
    """Resolve *user* ("", "uid", "name", each with ":group") and --group-add's *extra_groups*; ValueError says what fails."""
    name, colon, group_name = user.partition(":")
    groups = _entries(group, 3)
    uid, gid, home, login = 0, 0, "/", ""
    number = _number(name) if name else 0
    for entry in _entries(passwd, 6):
        entry_uid, entry_gid = _number(entry[2]), _number(entry[3])
        if entry_uid is None or entry_gid is None:
            continue
        if (entry_uid == number) if number is not None else (entry[0] == name):
            login, uid, gid, home = entry[0], entry_uid, entry_gid, entry[5] or "/"
            break
    else:
        if number is None:
            raise ValueError(f"unable to find user {name}: no matching entries in passwd file")
        uid = number
    supplementary: list[int] = []
    if colon and group_name:
        gid = _group_id(group_name, groups, f"unable to find group {group_name}: no matching entries in group file")
    elif login:
        for entry in groups:
            listed = _number(entry[2])
            if listed is not None and len(entry) > 3 and login in entry[3].split(","):
                supplementary.append(listed)
    for extra in extra_groups:
        supplementary.append(_group_id(extra, groups, f"Unable to find group {extra}"))
    # the primary group is one of them: else a setgid program or newgrp could drop it, and what is denied to it was open
    unique = list(dict.fromkeys([gid, *supplementary]))  # CVE-2022-36109
    return Identity(_checked(uid), _checked(gid), unique, home)
