"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container: rendered here, bind-mounted by the supervisor.

The texts are moby's (daemon/libnetwork/etchosts and internal/resolvconf).  A file is rewritten in place, never replaced: the
bind mount is of the inode.  The hosts file has the container itself, what its user asked for (``--add-host``) and those that it
has links to; all others are found by the name server.  The resolv.conf of a container that asks it is resolving.py's, here
is that of one which asks the host's servers.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

HOSTS_HEAD = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
"""moby's, for a host whose own servers are all on its loopback."""


def render_hosts(
    addresses: Iterable[str],
    hostname: str,
    domain: str,
    extra: Iterable[str],
    linked: str,
) -> str:
    """*addresses* are the container's own, and have its host name alone, as Docker's: an alias that it shares with others is for
    the name server to answer.  *extra* and *linked* are lines already."""
    lines = [HOSTS_HEAD, *extra]
    own = [f"{hostname}.{domain}", hostname] if domain else [hostname]
    lines.append(render_lines((address, own) for address in addresses))
    return "".join([*lines, linked])


def render_lines(addresses: Iterable[tuple[str, Sequence[str]]]) -> str:
    return "".join(f"{address}\t{' '.join(names)}\n" for address, names in addresses)


def render_resolv(
    host: str, *, servers: Sequence[str], search: Sequence[str], options: Sequence[str], filtered: bool
) -> str:
    """The container's resolv.conf from the text of the host's.

    *filtered*: in a network namespace of its own the host's loopback servers do not answer and are left out.
    """
    found: list[str] = []
    domains: list[str] = []
    settings: list[str] = []
    for line in host.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            found.append(words[1])
        elif words[0] in ("search", "domain"):
            domains = words[1:]
        elif words[0] == "options":
            settings += words[1:]
    if filtered:
        found = [server for server in found if not _is_local(server)] or list(FALLBACK_SERVERS)
    found = list(servers) or found
    domains = list(search) or domains
    settings = list(options) or settings
    lines = [f"nameserver {server}\n" for server in found]
    if domains and domains != ["."]:
        lines.append(f"search {' '.join(domains)}\n")
    if settings:
        lines.append(f"options {' '.join(settings)}\n")
    return "".join(lines)


def _is_local(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return True
    # a link-local server needs an interface of the host to be reached by
    return address.is_loopback or "%" in server


def host_text() -> str:
    return _read("/etc/resolv.conf")


def host_resolv() -> str:
    """systemd-resolved's stub hides the real servers, which it lists elsewhere (moby, resolvconf.Path)."""
    text = host_text()
    servers = [words[1] for line in text.splitlines() if len(words := line.split()) > 1 and words[0] == "nameserver"]
    if servers == ["127.0.0.53"]:
        return _read("/run/systemd/resolve/resolv.conf") or text
    return text


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def follow(path: Path, written: Path, text: str) -> None:
    """Have a file say *text* from now on, what somebody else wrote into it apart.

    *written* keeps what we wrote last.  Where the file is no longer that, its user edited it: our lines that are outdated go, our
    new ones come to the end, and all the others stay as they are.
    """
    before = _read(written)
    if before == text and path.exists():
        return
    current = _read(path)
    write_in_place(path, text if current in (before, "") else merge(current, before, text))
    write_in_place(written, text)  # last: after a kill in between, the lines that are there already do not come twice


def follow_untouched(path: Path, written: Path, text: str) -> None:
    """The same for a file that is its user's from the first edit on: it is left alone then."""
    if _read(path) in (_read(written), ""):
        write_in_place(path, text)
        write_in_place(written, text)


def merge(current: str, before: str, after: str) -> str:
    """*current* with the lines that *before* has and *after* has not taken out, and those that are new put in."""
    old, new = before.splitlines(), after.splitlines()
    gone = set(old) - set(new)
    lines = [line for line in current.splitlines() if line not in gone]
    known = {*old, *lines}
    return "".join(f"{line}\n" for line in [*lines, *(line for line in new if line not in known)])


def write_in_place(path: Path, text: str) -> None:
    """Replace the content and keep the inode, which is what a running container sees."""
    data = text.encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
