"""``pynet network create | ls | connect | disconnect | rm``."""

from __future__ import annotations

from ...netlib.errors import InvalidArgument
from ..client import Client
from ..format import short_id
from ..objects import each, path
from ..output import Row, add_listing, filters, show_list, show_plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

COLUMNS = [("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE")]


# -- create -------------------------------------------------------------------------------------------------------


def create(parser: Parser) -> Run:
    parser.option("-d", "--driver", metavar="DRIVER", default="bridge", help="driver: bridge, macvlan, ipvlan (bridge)")
    parser.repeated("--subnet", metavar="CIDR", help="address range of the network")
    parser.repeated("--gateway", metavar="ADDRESS", help="gateway of a subnet")
    parser.repeated("--ip-range", metavar="CIDR", help="part of a subnet that addresses are taken from")
    parser.repeated("--aux-address", metavar="NAME=ADDRESS", help="address that is not given to containers")
    parser.flag("--internal", help="no way out of the network")
    parser.flag("--attachable", help="accepted; every network is")
    parser.flag("--ipv6", default=None, help="also IPv6")
    parser.flag("--ipv4", default=None, help="IPv4 (--ipv4=false: none)")
    parser.repeated("-o", "--opt", metavar="NAME=VALUE", help="option of the driver")
    parser.repeated("--label", metavar="NAME[=VALUE]", help="label")
    parser.option("--ipam-driver", metavar="DRIVER", default="default", help="address manager (default)")
    parser.repeated("--ipam-opt", metavar="NAME=VALUE", help="option of the address manager")
    parser.flag("--config-only", help="only hold a configuration, for networks that are made from it")
    parser.option("--config-from", metavar="NETWORK", help="take the configuration from there")
    parser.option("--scope", metavar="SCOPE", help="scope (local)")
    parser.dry_run()
    parser.argument("name", metavar="NETWORK")
    return run_create


def run_create(args: Arguments) -> int:
    answer = Client(args.settings).post("/networks/create", {"dry-run": args.dry_run}, network_config(args))
    if answer.get("Warning"):
        import sys

        print(f"WARNING: {answer['Warning']}", file=sys.stderr)
    if args.dry_run:
        show_plan(args, answer["Plan"])
    else:
        print(answer["Id"])
    return 0


def network_config(args: Arguments) -> dict[str, Any]:
    """Parsed options -> the body of POST /networks/create.  Pure."""
    body: dict[str, Any] = {
        "Name": args.name,
        "Driver": args.driver,
        "Internal": args.internal,
        "Attachable": args.attachable,
        "ConfigOnly": args.config_only,
        "Options": dict(_pair(word) for word in args.opt),
        "Labels": dict(_pair(word) for word in args.label),
        "IPAM": {
            "Driver": args.ipam_driver,
            "Options": dict(_pair(word) for word in args.ipam_opt),
            "Config": ipam_config(args.subnet, args.ip_range, args.gateway, dict(map(_pair, args.aux_address))),
        },
    }
    for name, on in (("EnableIPv4", args.ipv4), ("EnableIPv6", args.ipv6)):
        if on is not None:  # else the engine's options, and this network's, may say
            body[name] = on
    if args.scope:
        body["Scope"] = args.scope
    if args.config_from:
        body["ConfigFrom"] = {"Network": args.config_from}
    return body


def ipam_config(
    subnets: list[str], ranges: list[str], gateways: list[str], aux: dict[str, str]
) -> list[dict[str, Any]]:
    """Ranges, gateways and auxiliary addresses go to the subnet that they lie in, as in Docker's client."""
    if not (subnets or ranges or gateways or aux):
        return []
    import ipaddress

    pools: list[tuple[Any, dict[str, Any]]] = []
    for text in subnets:
        try:
            pool = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise InvalidArgument(f"invalid subnet: {text!r}", hint="write for example 10.1.0.0/24") from None
        if any(pool.version == other.version and pool.overlaps(other) for other, _ in pools):
            raise InvalidArgument(f"subnets overlap: {text}", hint="give each subnet a range of its own")
        pools.append((pool, {"Subnet": text}))
    for what, key, words in (("ip-range", "IPRange", ranges), ("gateway", "Gateway", gateways)):
        for text in words:
            found = _pool_of(pools, text, what)
            if key in found:
                raise InvalidArgument(f"more than one {what} in subnet {found['Subnet']}", hint=f"leave out {text}")
            found[key] = text
    for name, text in aux.items():
        _pool_of(pools, text, "aux-address").setdefault("AuxiliaryAddresses", {})[name] = text
    return [settings for _, settings in pools]


def _pool_of(pools: list[tuple[Any, dict[str, Any]]], text: str, what: str) -> dict[str, Any]:
    import ipaddress

    try:
        inner = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidArgument(
            f"invalid {what}: {text!r}", hint="write an address, or for a range ADDRESS/BITS"
        ) from None
    for pool, settings in pools:
        if pool.version == inner.version and inner.subnet_of(pool):
            return settings
    raise InvalidArgument(f"no matching subnet for {what} {text}", hint="give the --subnet that it lies in")


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    if not name:
        raise InvalidArgument(f"invalid value {word!r}: no name before =", hint="write NAME=VALUE")
    return name, value


# -- ls, rm -------------------------------------------------------------------------------------------------------


def ls(parser: Parser) -> Run:
    add_listing(parser, "ids")
    return run_ls


def run_ls(args: Arguments) -> int:
    networks: list[dict[str, Any]] = Client(args.settings).get("/networks", {"filters": filters(args.filter)})
    networks.sort(key=lambda network: str(network["Name"]))
    rows = [row(network, full=args.no_trunc) for network in networks]
    show_list(args, networks, rows, COLUMNS)
    return 0


def row(network: dict[str, Any], *, full: bool = False) -> Row:
    """One network as Docker's client names its fields."""
    labels: dict[str, str] = network.get("Labels") or {}
    return {
        "ID": network["Id"] if full else short_id(network["Id"]),
        "Name": network["Name"],
        "Driver": network.get("Driver", ""),
        "Scope": network.get("Scope", ""),
        "IPv4": "true" if network.get("EnableIPv4", True) else "false",
        "IPv6": "true" if network.get("EnableIPv6") else "false",
        "Internal": "true" if network.get("Internal") else "false",
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "CreatedAt": network.get("Created", ""),
    }


def rm(parser: Parser) -> Run:
    parser.flag("-f", "--force", help="do not complain when it is not there")
    parser.argument("network", count="+")
    return run_rm


def run_rm(args: Arguments) -> int:
    return each(
        args, args.network, lambda name: ("DELETE", path(name, "networks"), None), missing_is_fine=args.force, at_once=1
    )


# -- connect, disconnect ------------------------------------------------------------------------------------------


def connect(parser: Parser) -> Run:
    parser.option("--ip", metavar="ADDRESS", help="IPv4 address")
    parser.option("--ip6", metavar="ADDRESS", help="IPv6 address")
    parser.repeated("--link-local-ip", metavar="ADDRESS", help="link-local address")
    parser.repeated("--alias", metavar="NAME", help="one more name of the container on this network")
    parser.repeated("--link", metavar="NAME[:ALIAS]", help="know another container of the network by an alias")
    parser.repeated("--driver-opt", metavar="NAME=VALUE", help="option of the driver")
    parser.option("--gw-priority", metavar="N", type=int, default=0, help="the highest one has the default route")
    parser.option("--mac-address", metavar="ADDRESS", help="MAC address")
    parser.dry_run()
    parser.argument("network")
    parser.argument("container")
    return run_connect


def run_connect(args: Arguments) -> int:
    config = {"IPv4Address": args.ip, "IPv6Address": args.ip6, "LinkLocalIPs": args.link_local_ip}
    endpoint = {
        "IPAMConfig": {key: value for key, value in config.items() if value},
        "Aliases": args.alias,
        "Links": args.link,
        "DriverOpts": dict(_pair(word) for word in args.driver_opt),
        "GwPriority": args.gw_priority,
        "MacAddress": args.mac_address or "",
    }
    body = {"Container": args.container, "EndpointConfig": {key: value for key, value in endpoint.items() if value}}
    where = f"{path(args.network, 'networks')}/connect"
    answer = Client(args.settings).post(where, {"dry-run": args.dry_run}, body)
    if args.dry_run:
        show_plan(args, answer["Plan"])
    return 0


def disconnect(parser: Parser) -> Run:
    parser.flag("-f", "--force", help="also when the container is gone")
    parser.dry_run("what would be unmade, and change nothing")
    parser.argument("network")
    parser.argument("container")
    return run_disconnect


def run_disconnect(args: Arguments) -> int:
    body = {"Container": args.container, "Force": args.force}
    answer = Client(args.settings).post(f"{path(args.network, 'networks')}/disconnect", {"dry-run": args.dry_run}, body)
    if args.dry_run:
        show_plan(args, answer["Plan"])
    return 0
