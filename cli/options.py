"""The options of ``run`` and ``create``, and the body of ``POST /containers/create`` that they amount to.

``declare`` declares them with Docker's names; ``container_config`` is pure: parsed options in, body out, and the same
options give the same body.  What Docker's client reads from the machine (``--env-file``, ``-e NAME`` without a value,
relative paths of ``-v``) is read here too, by ``gather``, so that the rest stays free of it.
"""

from __future__ import annotations

import os

from ..netlib.ports.portspec import format_port_bindings, parse_expose, parse_publish
from .environment import gather_environment, settings_in
from .mounts import binds_and_volumes, parse_mount, tmpfs_mounts
from .units import BadOption, InvalidValue, parse_cpus, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .parser import Arguments, Parser


def declare(parser: Parser) -> None:
    """Declare the options that ``run`` and ``create`` share, and IMAGE [COMMAND...]."""
    flag, option, repeated = parser.flag, parser.option, parser.repeated
    parser.stops_at_first_argument = True
    flag("-i", "--interactive", help="keep stdin open")
    flag("-t", "--tty", help="give the container a terminal")
    flag("--rm", help="remove the container when it exits")
    flag("--init", help="run a small init as process 1 that reaps")
    flag("--read-only", help="mount the root file system read-only")
    flag("--privileged", help="give all capabilities and devices")
    flag("-P", "--publish-all", help="publish all exposed ports on ports that are free")
    flag("--no-healthcheck", help="accepted; health checks are not run")
    flag("--oom-kill-disable", help="do not let the kernel kill for lack of memory")
    repeated("-a", "--attach", metavar="STREAM", help="attach to stdin, stdout or stderr")
    repeated("-p", "--publish", metavar="[IP:][PORT:]PORT[/PROTO]", help="publish a port to the host")
    repeated("--expose", metavar="PORT", help="expose a port without publishing it")
    repeated("-e", "--env", metavar="NAME[=VALUE]", help="set an environment variable")
    repeated("--env-file", metavar="FILE", help="read environment variables from a file")
    repeated("-l", "--label", metavar="NAME[=VALUE]", help="set a label")
    repeated("--label-file", metavar="FILE", help="read labels from a file")
    option("--name", help="name of the container")
    option("-h", "--hostname", help="host name in the container")
    option("--domainname", help="domain name in the container")
    option("-w", "--workdir", metavar="DIR", help="working directory in the container")
    option("-u", "--user", metavar="USER[:GROUP]", help="user in the container")
    repeated("--group-add", metavar="GROUP", help="one more group for the user")
    option("--entrypoint", metavar="COMMAND", help="replace the image's entry point")
    repeated("-v", "--volume", metavar="SOURCE:TARGET[:ro]", help="mount a directory or volume")
    repeated("--mount", metavar="KEY=VALUE,...", help="mount a bind, volume or tmpfs")
    repeated("--tmpfs", metavar="TARGET[:OPTIONS]", help="mount a tmpfs")
    repeated("--network", "--net", metavar="NETWORK", help="connect to a network: NAME, or name=NAME,ip=ADDRESS,...")
    repeated("--network-alias", "--net-alias", metavar="NAME", help="one more name on that network")
    option("--ip", metavar="ADDRESS", help="IPv4 address on that network")
    option("--ip6", metavar="ADDRESS", help="IPv6 address on that network")
    repeated("--link-local-ip", metavar="ADDRESS", help="link-local address on that network")
    repeated("--link", metavar="NAME[:ALIAS]", help="know another container by an alias")
    option("--mac-address", metavar="ADDRESS", help="MAC address on that network")
    repeated("--dns", metavar="ADDRESS", help="name server")
    repeated("--dns-search", metavar="DOMAIN", help="search domain")
    repeated("--dns-option", "--dns-opt", metavar="OPTION", help="option of resolv.conf")
    repeated("--add-host", metavar="NAME:ADDRESS", help="one more line in /etc/hosts")
    option("--restart", metavar="POLICY", help="no, on-failure[:N], always or unless-stopped")
    option("--stop-signal", metavar="SIGNAL", help="signal that stops the container")
    option("--stop-timeout", metavar="SECONDS", type=int, help="time between that signal and KILL")
    option("-m", "--memory", metavar="SIZE", help="most memory")
    option("--memory-swap", metavar="SIZE", help="most memory and swap together; -1 for no limit")
    option("--memory-reservation", metavar="SIZE", help="memory that is kept for the container")
    option("--cpus", metavar="N", help="most CPUs, for example 1.5")
    option("-c", "--cpu-shares", metavar="N", type=int, help="relative weight")
    option("--cpuset-cpus", metavar="LIST", help="CPUs to run on, for example 0-1")
    option("--pids-limit", metavar="N", type=int, help="most processes; -1 for no limit")
    option("--shm-size", metavar="SIZE", help="size of /dev/shm")
    repeated("--ulimit", metavar="NAME=SOFT[:HARD]", help="resource limit")
    repeated("--cap-add", metavar="CAP", help="add a capability, or ALL")
    repeated("--cap-drop", metavar="CAP", help="drop a capability, or ALL")
    repeated("--security-opt", metavar="OPTION", help="seccomp=builtin|unconfined|FILE, no-new-privileges")
    repeated("--sysctl", metavar="NAME=VALUE", help="kernel parameter of the container's namespaces")
    repeated("--device", metavar="PATH[:TARGET[:rwm]]", help="add a host device")
    option("--oom-score-adj", metavar="N", type=int, help="preference of the kernel's out-of-memory killer")
    option("--ipc", metavar="MODE", help="ipc namespace: private, there is no other")
    option("--userns", metavar="MODE", help="user namespace: host")
    option("--cgroup-parent", metavar="PATH", help="parent cgroup")
    option("--runtime", metavar="NAME", help="there is one: pynet")
    option("--log-driver", metavar="NAME", help="json-file or none")
    repeated("--log-opt", metavar="NAME=VALUE", help="option of the log driver")
    option("--platform", help="accepted; images are local")
    option("--pull", metavar="POLICY", help="accepted; images are local")
    option("--cidfile", metavar="FILE", help="write the container's id to a file")
    parser.dry_run("what its network would be made of, and make nothing")
    parser.argument("image")
    parser.rest("words", metavar="COMMAND", help="command and its arguments")


def gather(args: Arguments, environ: Mapping[str, str] = os.environ) -> Arguments:
    """Read what lies outside the command line into *args*: files, variables that are passed on, relative paths."""
    args.env = gather_environment(args.env, args.env_file, environ)
    args.label = [line for path in args.label_file for line in settings_in(path, {})] + args.label
    args.env_file, args.label_file = [], []
    args.volume = [
        os.path.abspath(os.path.expanduser(word.split(":")[0])) + word[len(word.split(":")[0]) :]
        if word.startswith((".", "~")) and ":" in word
        else word
        for word in args.volume
    ]
    return args


def container_config(args: Arguments) -> dict[str, Any]:
    """Parsed and gathered options -> the body of POST /containers/create."""
    bindings = dict.fromkeys(binding for text in args.publish for binding in parse_publish(text))
    exposed = [key for text in args.expose for key in parse_expose(text)]
    streams = [_stream(word) for word in args.attach]
    detached = getattr(args, "detach", False)
    tty, stdin = args.tty, args.interactive or "stdin" in streams
    binds, volumes = binds_and_volumes(args.volume)
    networks = _networks(args)
    mode = next(iter(networks), "default")
    body: dict[str, Any] = {
        "Image": args.image,
        "Hostname": args.hostname or "",
        "Domainname": args.domainname or "",
        "User": args.user or "",
        "AttachStdin": not detached and ("stdin" in streams or (not streams and stdin)),
        "AttachStdout": not detached and (not streams or "stdout" in streams),
        "AttachStderr": not detached and (not streams or "stderr" in streams),
        "OpenStdin": stdin,
        "StdinOnce": stdin and not detached,
        "Tty": tty,
        "Env": args.env,
        "Cmd": args.words or None,
        "WorkingDir": args.workdir or "",
        "Labels": dict(_pair(word) for word in args.label),
        "ExposedPorts": {key: {} for key in (*(binding.key for binding in bindings), *exposed)},
        "Volumes": volumes,
    }
    if args.entrypoint is not None:
        body["Entrypoint"] = [args.entrypoint]  # [""] clears the image's own, as in Docker
    if args.stop_signal:
        body["StopSignal"] = args.stop_signal
    if args.stop_timeout is not None:
        body["StopTimeout"] = args.stop_timeout
    if args.mac_address and mode in ("default", "bridge"):
        body["MacAddress"] = args.mac_address
    body["HostConfig"] = {
        "Binds": binds,
        "Mounts": [parse_mount(word) for word in args.mount],
        "Tmpfs": tmpfs_mounts(args.tmpfs),
        "NetworkMode": mode,
        "PortBindings": format_port_bindings(list(bindings)),
        "PublishAllPorts": args.publish_all,
        "RestartPolicy": _restart(args),
        "AutoRemove": args.rm,
        **_resources(args),
        **_security(args),
        "Dns": args.dns,
        "DnsOptions": args.dns_option,
        "DnsSearch": args.dns_search,
        "ExtraHosts": [_host(word) for word in args.add_host],
        "Links": args.link if mode in ("default", "bridge", "host") or mode.startswith("container:") else [],
        "IpcMode": args.ipc or "",
        "UsernsMode": args.userns or "",
        "Init": True if args.init else None,
        "Runtime": args.runtime or "",
        "LogConfig": {"Type": args.log_driver or "", "Config": dict(_pair(word) for word in args.log_opt)},
    }
    if len(networks) == 1 and not networks[mode]:
        networks = {}  # the mode says it all, and "container:X" can have no settings (Docker's client does the same)
    body["NetworkingConfig"] = {"EndpointsConfig": networks}
    return body


# -- pieces -------------------------------------------------------------------------------------------------------


def _resources(args: Arguments) -> dict[str, Any]:
    swap = args.memory_swap
    return {
        "Memory": parse_size(args.memory) if args.memory else 0,
        "MemorySwap": -1 if swap == "-1" else parse_size(swap) if swap else 0,
        "MemoryReservation": parse_size(args.memory_reservation) if args.memory_reservation else 0,
        "NanoCpus": parse_cpus(args.cpus) if args.cpus else 0,
        "CpuShares": args.cpu_shares or 0,
        "CpusetCpus": args.cpuset_cpus or "",
        "PidsLimit": args.pids_limit,
        "ShmSize": parse_size(args.shm_size) if args.shm_size else 0,
        "Ulimits": [_ulimit(word) for word in args.ulimit],
        "Devices": [_device(word) for word in args.device],
        "OomScoreAdj": args.oom_score_adj or 0,
        "OomKillDisable": args.oom_kill_disable,
        "CgroupParent": args.cgroup_parent or "",
    }


def _security(args: Arguments) -> dict[str, Any]:
    return {
        "Privileged": args.privileged,
        "ReadonlyRootfs": args.read_only,
        "CapAdd": args.cap_add,
        "CapDrop": args.cap_drop,
        "GroupAdd": args.group_add,
        "SecurityOpt": [_security_option(word) for word in args.security_opt],
        "Sysctls": dict(_pair(word) for word in args.sysctl),
    }


def _security_option(word: str) -> str:
    """A seccomp profile is sent as its text, as Docker's client does: the engine may be elsewhere."""
    key, _, value = word.partition("=")
    if key != "seccomp" or value in ("", "unconfined", "builtin", "default") or value.startswith("{"):
        return word
    try:
        with open(value, encoding="utf-8") as file:
            return f"seccomp={file.read()}"
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadOption(
            f"opening seccomp profile ({value}) failed: {reason}", hint="name a JSON file, or unconfined or builtin"
        ) from None


def _restart(args: Arguments) -> dict[str, Any]:
    name, _, count = (args.restart or "no").partition(":")
    if count and not count.isdecimal():
        raise BadOption(f"invalid restart policy: {args.restart!r}", hint="a count goes with on-failure: on-failure:5")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _networks(args: Arguments) -> dict[str, Any]:
    """Network name -> endpoint settings, in the order of the command line; the simple options hold for the first one."""
    networks: dict[str, Any] = {}
    for word in args.network:
        name, settings = parse_network(word)
        if name in networks:
            raise BadOption(f'network "{name}" is specified multiple times', hint="give each network once")
        networks[name] = settings
    own = _simple(args)
    if own:
        first = next(iter(networks), "default")
        settings = networks.setdefault(first, {})
        for key, what, option in _CONFLICTS:
            if key in settings and key in own:
                raise BadOption(
                    f"conflicting options: cannot specify both --{option} and per-network {what}", hint=_ONCE
                )
        ipam = {**settings.get("IPAMConfig", {}), **own.get("IPAMConfig", {})}
        for key, what, option in _ADDRESS_CONFLICTS:
            if key in settings.get("IPAMConfig", {}) and key in own.get("IPAMConfig", {}):
                raise BadOption(
                    f"conflicting options: cannot specify both --{option} and per-network {what}", hint=_ONCE
                )
        networks[first] = {**settings, **own, **({"IPAMConfig": ipam} if ipam else {})}
    if len(networks) > 1 and any(name in ("host", "none") or name.startswith("container:") for name in networks):
        raise BadOption(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
            hint="host, none and container:NAME stand alone",
        )
    return networks


_ONCE = "leave one of them out"
_CONFLICTS = (
    ("Aliases", "alias", "network-alias"),
    ("Links", "links", "link"),
    ("MacAddress", "MAC address", "mac-address"),
)
_ADDRESS_CONFLICTS = (
    ("IPv4Address", "IPv4 address", "ip"),
    ("IPv6Address", "IPv6 address", "ip6"),
    ("LinkLocalIPs", "link-local IP addresses", "link-local-ip"),
)
"""Docker's client words (cli/command/container/opts.go, applyContainerOptions)."""


def _simple(args: Arguments) -> dict[str, Any]:
    """The options that say something of the first network without naming it."""
    config = {"IPv4Address": args.ip, "IPv6Address": args.ip6, "LinkLocalIPs": args.link_local_ip}
    ipam = {key: value for key, value in config.items() if value}
    links = args.link if args.network and args.network[0] not in ("default", "bridge") else []
    own = {"IPAMConfig": ipam, "Aliases": args.network_alias, "MacAddress": args.mac_address, "Links": links}
    return {key: value for key, value in own.items() if value}


def parse_network(word: str) -> tuple[str, dict[str, Any]]:
    """``NAME``, or Docker's long form ``name=NAME,alias=A,ip=ADDRESS,...`` (docker/cli, opts/network.go)."""
    if "=" not in word:
        if not word:
            raise BadOption("empty network name", hint="`pynet network ls` lists them")
        return word, {}
    name = ""
    settings: dict[str, Any] = {}
    for part in _fields(word):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not key or not equals:
            raise BadOption(f"invalid field {part}", hint=f"write NAME=VALUE; there are {', '.join(_FIELDS)}")
        if key == "name":
            name = value
        elif key in ("alias", "link"):
            settings.setdefault("Aliases" if key == "alias" else "Links", []).append(value)
        elif key in ("ip", "ip6"):
            settings.setdefault("IPAMConfig", {})["IPv4Address" if key == "ip" else "IPv6Address"] = value
        elif key == "link-local-ip":
            settings.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
        elif key == "mac-address":
            settings["MacAddress"] = value
        elif key == "driver-opt":
            option, separator, text = value.partition("=")
            if not option or not separator:
                raise BadOption("invalid key value pair format in driver options", hint="write driver-opt=NAME=VALUE")
            settings.setdefault("DriverOpts", {})[option] = text
        elif key == "gw-priority":
            settings["GwPriority"] = _integer(value)
        else:
            raise BadOption(f"invalid field key {key}", hint=f"there are {', '.join(_FIELDS)}")
    if not name:
        raise BadOption("network name/id is not specified", hint="write name=NETWORK,alias=NAME,...")
    return name, settings


_FIELDS = ("name", "alias", "ip", "ip6", "link-local-ip", "mac-address", "driver-opt", "gw-priority", "link")


def _fields(word: str) -> list[str]:
    """What stands between commas; a field with commas of its own is quoted, as in CSV (RFC 4180)."""
    if '"' not in word:
        return word.split(",")
    import csv

    try:
        return next(csv.reader([word], strict=True))
    except csv.Error as error:
        raise BadOption(
            f"invalid field {word}: {error}", hint='quote a whole field: name=back,"driver-opt=A=1,2"'
        ) from None


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    if not key:
        raise BadOption(f"invalid value {word!r}: no name before =", hint="write NAME=VALUE")
    return key, value


def _integer(text: str) -> int:
    if not (text.isascii() and text.lstrip("+-").isdigit()):
        raise InvalidValue("number", text, "write a whole number")
    try:
        return int(text)
    except ValueError:
        raise InvalidValue("number", text, "write a whole number") from None


def _host(word: str) -> str:
    name, colon, address = word.partition(":") if ":" in word.partition("=")[0] else word.partition("=")
    if not name or not colon or not address:
        raise BadOption(f"bad format for add-host: {word!r}", hint="write NAME:ADDRESS")
    return f"{name}:{address.strip('[]')}"


def _ulimit(word: str) -> dict[str, Any]:
    name, _, limits = word.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise InvalidValue("ulimit", word, "write NAME=SOFT[:HARD], for example nofile=1024:2048") from None


def _device(word: str) -> dict[str, str]:
    host, _, rest = word.partition(":")
    target, _, rights = rest.partition(":")
    if target and not target.startswith("/"):
        target, rights = "", target
    return {"PathOnHost": host, "PathInContainer": target or host, "CgroupPermissions": rights or "rwm"}


def _stream(word: str) -> str:
    if word.lower() not in ("stdin", "stdout", "stderr"):
        raise InvalidValue("stream", word, "valid streams are stdin, stdout and stderr")
    return word.lower()
