"""pynetd's command line: read, completed from the configuration file, judged; and how the engine is started again.

words  --parse_arguments-->  Namespace  --config_file.settle-->  the same with the file's keys
                                 |--Asked.of-->       what is asked of networks and of the proxy, or the error
                                 '--own_command-->    words again, for the start after a crash
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..netlib.instance import Instance
from .config_file import DEFAULT_PATH, FIREWALLS, PUBLISH_POLICIES, VARIABLE
from .default_bridge import address_pools, default_bridge, network_opts
from .grammar import network_options
from .name_options import NameOptions

if TYPE_CHECKING:
    from ..netlib.predefined import DefaultBridge
    from .helpers import ProxySettings


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pynetd", description="The engine behind pynet and Docker's clients.")
    parser.add_argument("--root", help="persistent state (PYNET_ROOT, /var/lib/pynet)")
    parser.add_argument("--run", help="run-time state (PYNET_RUN, /run/pynet)")
    parser.add_argument("--host", help="where to listen (unix://RUN/pynet.sock)")
    parser.add_argument("--config-file", help=f"file of settings ({VARIABLE}, {DEFAULT_PATH})")
    parser.add_argument("--validate", action="store_true", help="judge the options and the file, and start nothing")
    parser.add_argument("--firewall", "--firewall-backend", choices=FIREWALLS, help="who filters (auto)")
    parser.add_argument(
        "--publish-policy",
        choices=PUBLISH_POLICIES,
        help="host-input: published ports honour the host's INPUT rules, by way of the proxy alone (nat)",
    )
    parser.add_argument("--proxy-workers", type=int, help="processes that accept on published tcp ports (1)")
    parser.add_argument(
        "--proxy-drain", type=float, help="seconds that proxied connections have when their container ends (10)"
    )
    parser.add_argument("--metrics-addr", help="IP:PORT where Prometheus is told what the proxy carries (nowhere)")
    for name, metavar, text in network_options.OPTIONS:
        parser.add_argument(name, metavar=metavar, help=text)
    for name, text in network_options.SWITCHES:
        parser.add_argument(name, metavar="true|false", nargs="?", const="true", help=text)
    for name, metavar, text in network_options.REPEATED:
        parser.add_argument(name, metavar=metavar, action="append", default=[], help=text)
    parser.add_argument("--again", action="store_true", help="started by the other processes, not by a user")
    parser.add_argument("--log", help="write messages to this file, not to standard error")
    parser.add_argument("--ready-fd", type=int, help="descriptor that gets 1 and a newline when the socket is served")
    return parser.parse_args(argv)


def own_command(arguments: argparse.Namespace, instance: Instance) -> list[str]:
    """How the others start us again."""
    argv = [sys.executable, "-I", "-m", "pynet.engine.daemon", "--root", str(instance.root), "--run", str(instance.run)]
    argv += ["--log", str(instance.run / "pynetd.log")]
    names = (
        "--host",
        "--firewall",
        "--publish-policy",
        "--proxy-workers",
        "--proxy-drain",
        "--metrics-addr",
        *network_options.names(),
    )
    for name in names:
        value = getattr(arguments, name.lstrip("-").replace("-", "_"))
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                argv.append(f"{name}={one}")
    return [*argv, "--again"]


@dataclass(frozen=True)
class Asked:
    """What the options ask for, judged as far as the kernel need not be asked."""

    bridge: DefaultBridge | None
    pools: tuple[tuple[str, int], ...]
    network_opts: Mapping[str, Mapping[str, str]]
    proxy: ProxySettings
    names: NameOptions

    @classmethod
    def of(cls, arguments: argparse.Namespace, instance: Instance) -> Self:
        """InvalidArgument says which option is wrong."""
        from ..ipam.defaults import replaced_pools
        from .helpers import ProxySettings

        pools = address_pools(arguments.default_address_pool)
        replaced_pools(pools, instance.digest)
        return cls(
            default_bridge(arguments),
            pools,
            network_opts(arguments.default_network_opt),
            ProxySettings.of(
                arguments.proxy_workers, arguments.proxy_drain, arguments.metrics_addr, strict=not arguments.again
            ),
            NameOptions.of(arguments),
        )
