"""``pynet port``: the published ports of a container; ``add`` and ``rm`` change them while it runs (Docker can not).

    pynet port CONTAINER [PORT]          list them, as Docker does; --verbose: which way each one takes, and why
    pynet port add CONTAINER MAPPING...  publish more; the grammar of -p
    pynet port rm CONTAINER HOST_PORT... withdraw some
    pynet port stats [CONTAINER]         what the proxy counted, and the connections that NAT led past it

A container that is called "add", "rm" or "stats" is reached by its id.
"""

from __future__ import annotations

from ...netlib.errors import NotFound
from ..client import Client, quote
from ..format import size
from ..objects import path
from ..output import Row, add_format, lines, show_plan, show_rows
from ..parser import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

COLUMNS = [
    *(("Container", "CONTAINER"), ("Host", "HOST"), ("Port", "PORT"), ("Connections", "CONNECTIONS"), ("Nat", "NAT")),
    *(("Active", "ACTIVE"), ("Received", "RECEIVED"), ("Sent", "SENT"), ("Errors", "ERRORS"), ("Refused", "REFUSED")),
    ("Connect", "CONNECT MEAN / MAX"),
]


PATHS = [("Port", "PORT"), ("Host", "HOST"), ("Path", "PATH"), ("Target", "TARGET"), ("Why", "WHY")]


def port(parser: Parser) -> Run:
    add_format(parser)
    parser.flag("-v", "--verbose", help="the way that each port takes to the container, and why")
    parser.flag("--dry-run", help="with add and rm: print what would be done, and do nothing")
    parser.argument("container", help='a container; or "add", "rm" or "stats", and then the container')
    parser.argument(
        "words", count="*", metavar="PORT", help="PORT[/PROTO]; for add as -p, for rm [IP:]PORT[-END][/PROTO]"
    )
    return run


def run(args: Arguments) -> int:
    words: list[str] = args.words
    if args.dry_run and args.container not in ("add", "rm"):
        raise UsageError("--dry-run is for add and rm, which change something")
    if args.container == "stats":
        if len(words) > 1:
            raise UsageError(f"pynet port stats has no use for {words[1]!r}")
        return _stats(args, next(iter(words), None))
    if args.container in ("add", "rm"):
        if len(words) < 2:
            raise UsageError(f"pynet port {args.container} needs CONTAINER and PORT")
        return (_add if args.container == "add" else _remove)(args, words[0], words[1:])
    if len(words) > 1:
        raise UsageError(f"pynet port has no use for {words[1]!r}")
    return _list(args, next(iter(words), ""))


def _list(args: Arguments, port: str) -> int:
    client = Client(args.settings)
    if args.verbose or args.json or args.format:
        wanted = port if "/" in port or not port else f"{port}/tcp"
        known: list[dict[str, Any]] = client.get(f"/pynet{path(args.container)}/ports")
        found = [one for one in known if wanted in ("", one["Port"])]
        if port and not found:
            raise _not_public(args.container, wanted)
        if args.json:
            lines(found)
        else:
            show_rows(args.format, [{**one, "Host": _shown(one)} for one in found], PATHS)
        return 0
    details = client.get(f"{path(args.container)}/json")
    ports: dict[str, list[dict[str, str]] | None] = details["NetworkSettings"].get("Ports") or {}
    if port:
        wanted = port if "/" in port else f"{port}/tcp"
        if not ports.get(wanted):
            raise _not_public(args.container, wanted)
        print("".join(f"{_shown(binding)}\n" for binding in ports[wanted] or ()), end="")
        return 0
    for name in sorted(ports, key=lambda text: (int(text.partition("/")[0]), text)):
        print("".join(f"{name} -> {_shown(binding)}\n" for binding in ports[name] or ()), end="")
    return 0


def _not_public(container: str, wanted: str) -> NotFound:
    return NotFound(
        f"no public port {wanted!r} published for {container}", hint=f"`pynet port {container}` lists those that are"
    )


def _add(args: Arguments, container: str, mappings: list[str]) -> int:
    from ...netlib.ports.portspec import format_port_bindings, parse_publish

    bindings = dict.fromkeys(binding for text in mappings for binding in parse_publish(text))
    body = {"PortBindings": format_port_bindings(list(bindings))}
    answer = Client(args.settings).post(f"/pynet{path(container)}/ports", {"dry-run": args.dry_run}, body)
    if args.dry_run:
        show_plan(args, answer["Plan"])
        return 0
    for warning in answer.get("Warnings") or ():
        import sys

        print(f"WARNING: {warning}", file=sys.stderr)
    return _told(args, answer)


def _remove(args: Arguments, container: str, words: list[str]) -> int:
    from ...netlib.ports.portspec import parse_host_ports

    for word in words:
        parse_host_ports(word)  # a slip is told before the engine is asked
    query = "&".join([f"port={quote(word)}" for word in words] + ["dry-run=1"] * args.dry_run)
    answer = Client(args.settings).delete(f"/pynet{path(container)}/ports?{query}")
    if args.dry_run:
        show_plan(args, answer["Plan"])
        return 0
    return _told(args, answer)


def _told(args: Arguments, answer: dict[str, Any]) -> int:
    if args.json:
        lines(answer["Ports"])
    else:
        print("".join(f"{one['Port']} -> {_shown(one)}\n" for one in answer["Ports"]), end="")
    return 0


def _shown(binding: dict[str, str]) -> str:
    address = binding["HostIp"]
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


def _stats(args: Arguments, container: str | None) -> int:
    client = Client(args.settings)
    name = client.get(f"{path(container)}/json")["Name"].removeprefix("/") if container is not None else None
    ports = [port for port in client.get("/pynet/ports") if name in (None, port["Container"])]
    if args.json:
        lines(ports)
    else:
        show_rows(args.format, [_row(port) for port in ports], COLUMNS)
    return 0


def _row(port: dict[str, Any]) -> Row:
    counted: dict[str, Any] = port["Proxy"]
    times: dict[str, Any] = counted.get("connect") or {}
    mean = times["seconds"] / times["count"] if times.get("count") else 0.0
    return {
        "Container": port["Container"],
        "Host": _shown({"HostIp": port["HostIp"], "HostPort": str(port["HostPort"])}),
        "Port": port["Port"],
        "Connections": counted.get("connections", 0),
        "Nat": "-" if port.get("NatConnections") is None else port["NatConnections"],
        "Active": counted.get("active", 0),
        "Received": size(counted.get("bytes_in", 0)),
        "Sent": size(counted.get("bytes_out", 0)),
        "Errors": counted.get("errors", 0),
        "Refused": counted.get("refused", 0),
        "Connect": f"{mean * 1e3:.1f} / {times.get('longest', 0.0) * 1e3:.1f} ms" if times.get("count") else "-",
    }
