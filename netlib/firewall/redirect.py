"""The redirect of a sandbox's name server: 127.0.0.11:53 to the ports of its two sockets, in the sandbox's own tables.

In nftables it is a table of ours; in iptables a chain of ours in nat, and a jump to it from OUTPUT.  Answers need no rule: the
kernel translates the packets of a connection back.  Each function acts in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import os
import subprocess
from typing import Any

from ..errors import NotSupported
from ..kernel.libnftables import Nft, NftError
from ..kernel.netlink import NetlinkError
from ..kernel.nft_redirect import make_redirect
from .iptables.programs import legacy_program

TABLE = "pynet-names"
CHAIN = "PYNET_NAMES"
PATIENCE = 30.0
"""Seconds that iptables-restore may take: it waits for nobody, so it needs milliseconds."""


def install(backend: str, address: str, udp: int, tcp: int) -> None:
    """Send *address*:53 to these ports, in the place of a redirect that is there; *backend* is auto, nftables or iptables."""
    if backend != "iptables":
        try:
            _install(address, udp, tcp)
            return
        except (NftError, NotSupported):
            if backend == "nftables":
                raise
    _restore(_chain(address, udp, tcp))


def installed(address: str, udp: int, tcp: int) -> bool:
    """Whether the redirect to exactly these ports is there, in one way or the other."""
    return _in_nft(address, udp, tcp) or _in_iptables(address, udp, tcp)


def remove() -> None:
    """Take it away; what is not there is passed over."""
    try:
        _nft(f"add table ip {TABLE}\ndelete table ip {TABLE}\n")
    except (NftError, NotSupported):
        pass  # this kernel has no nftables: it was iptables
    if _saved(f":{CHAIN} "):
        _restore(f"*nat\n-D OUTPUT -j {CHAIN}\n-F {CHAIN}\n-X {CHAIN}\nCOMMIT\n")


# -- nftables ------------------------------------------------------------------------------------------------------------


def _install(address: str, udp: int, tcp: int) -> None:
    """Nearly always there is none.  To delete one in any case, as a transaction can, makes the kernel wait for a grace period of
    RCU when the socket is closed (nf_tables_api.c, nft_rcv_nl_event): 6 to 14 ms a sandbox, where all the rest takes 0.2."""
    try:
        make_redirect(TABLE, address, 53, {"udp": udp, "tcp": tcp})
    except NetlinkError:
        _nft(_table(address, udp, tcp))


def _table(address: str, udp: int, tcp: int) -> str:
    rules = "".join(
        f"add rule ip {TABLE} output ip daddr {address} {proto} dport 53 dnat to {address}:{port}\n"
        for proto, port in (("udp", udp), ("tcp", tcp))
    )
    return (
        f"add table ip {TABLE}\ndelete table ip {TABLE}\nadd table ip {TABLE}\n"
        f"add chain ip {TABLE} output {{ type nat hook output priority -100; }}\n{rules}"
    )


def _nft(commands: str) -> None:
    ruleset = Nft()
    try:
        ruleset.run(commands)
    finally:
        ruleset.close()


def _in_nft(address: str, udp: int, tcp: int) -> bool:
    """Exactly what ``_table`` makes: who may change tables in a sandbox may have put anything there."""
    try:
        ruleset = Nft()
    except NotSupported:
        return False
    try:
        listed = ruleset.list(f"list table ip {TABLE}")
    except NftError:
        return False
    finally:
        ruleset.close()
    works = not any("flags" in one.get("table", {}) for one in listed)  # dormant
    hooked = any(one.get("chain", {}).get("hook") == "output" for one in listed)
    found = [_redirected(one["rule"].get("expr", ())) for one in listed if "rule" in one]
    wanted = [("udp", address, udp), ("tcp", address, tcp)]
    return works and hooked and len(found) == len(wanted) and all(one in found for one in wanted)


def _redirected(expressions: Any) -> tuple[Any, Any, Any] | None:
    """Protocol, address and port of a rule; None for one of another form."""
    try:
        _address, port, translation = expressions
        target = translation["dnat"]
        return port["match"]["left"]["payload"]["protocol"], target["addr"], target["port"]
    except (KeyError, TypeError, ValueError):
        return None


# -- iptables ------------------------------------------------------------------------------------------------------------


def _chain(address: str, udp: int, tcp: int) -> str:
    """A chain that is declared is emptied; the jump is there once."""
    jump = "" if _saved(f"-A OUTPUT -j {CHAIN}") else f"-A OUTPUT -j {CHAIN}\n"
    rules = "".join(f"{_rule(address, proto, port)}\n" for proto, port in (("udp", udp), ("tcp", tcp)))
    return f"*nat\n:{CHAIN} - [0:0]\n{rules}{jump}COMMIT\n"


def _rule(address: str, proto: str, port: int) -> str:
    """As iptables-save writes it."""
    return f"-A {CHAIN} -d {address}/32 -p {proto} -m {proto} --dport 53 -j DNAT --to-destination {address}:{port}"


def _in_iptables(address: str, udp: int, tcp: int) -> bool:
    wanted = (f"-A OUTPUT -j {CHAIN}", _rule(address, "udp", udp), _rule(address, "tcp", tcp))
    lines = _save().split("\n")
    return all(line in lines for line in wanted)


def _saved(beginning: str) -> bool:
    return any(line.startswith(beginning) for line in _save().split("\n"))


def _save() -> str:
    program = legacy_program(4, "save")
    if program is None or not _uses_iptables():
        return ""
    done = _run([program, "-t", "nat"])
    return done.stdout if done.returncode == 0 else ""


def _run(command: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    """A comment in a rule of somebody else's is any bytes."""
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE,
            check=False,
            # the lock is for the host's rules; nobody else writes these
            env={**os.environ, "XTABLES_LOCKFILE": "/dev/null"},
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"{os.path.basename(command[0])} did not end in {PATIENCE:g} s") from None


def _uses_iptables() -> bool:
    """Whether this namespace has a legacy nat table: to look without knowing would make one, in every sandbox."""
    try:
        with open("/proc/thread-self/net/ip_tables_names", encoding="ascii") as names:
            return "nat" in names.read().split()
    except OSError:
        return False


def _restore(text: str) -> None:
    program = legacy_program(4, "restore")
    if program is None:
        raise NotSupported(
            "a sandbox's name server needs nftables or iptables-legacy-restore, and neither works here",
            hint="install nftables (libnftables) or iptables",
        )
    done = _run([program, "--noflush"], text)
    if done.returncode:
        raise OSError(errno.EINVAL, f"iptables-restore: {done.stderr.strip()}")
