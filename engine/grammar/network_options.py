"""The engine's options for networks, as its command line and the client's ``daemon`` have them: Docker's names and values.

What they mean is engine/default_bridge.py's business.
"""

from __future__ import annotations

OPTIONS = (
    ("--bridge", "NAME", "existing bridge of the network bridge; none: no such network"),
    ("--bip", "CIDR", "address of the default bridge and its subnet (192.168.1.5/24)"),
    ("--bip6", "CIDR", "the same for IPv6"),
    ("--fixed-cidr", "CIDR", "part of the default bridge's subnet that addresses are taken from"),
    ("--fixed-cidr-v6", "CIDR", "the same for IPv6"),
    ("--default-gateway", "ADDRESS", "next hop of containers on the default bridge, in place of its own address"),
    ("--default-gateway-v6", "ADDRESS", "the same for IPv6"),
    ("--mtu", "BYTES", "MTU of the default bridge's containers (1500)"),
    ("--ip", "ADDRESS", "host address of ports published on the default bridge (0.0.0.0)"),
)
"""Name, what its value is called, what it says; of the network ``bridge``."""
SWITCHES = (
    ("--ipv6", "IPv6 on the default bridge"),
    ("--icc", "whether containers on the default bridge may talk to each other (true)"),
    ("--ip-masq", "whether what leaves the default bridge takes an address of the host (true)"),
)
"""Options whose value is true or false."""
POOL = "--default-address-pool"
"""base=CIDR,size=BITS, repeated: where subnets of networks that name none are cut from."""
POOL_HELP = "subnets for networks that name none: blocks of SIZE bits of BASE"
POOL_VALUE = "base=CIDR,size=BITS"
NETWORK_OPT = "--default-network-opt"
"""DRIVER=OPTION=VALUE, repeated: options of a driver's networks that are made without them."""
NETWORK_OPT_HELP = "option of every new network of the driver that names no other value for it"
NETWORK_OPT_VALUE = "DRIVER=OPTION=VALUE"
REPEATED = (
    (POOL, POOL_VALUE, POOL_HELP),
    (NETWORK_OPT, NETWORK_OPT_VALUE, NETWORK_OPT_HELP),
    ("--dns", "ADDRESS", "name server of containers that name none (the host's own)"),
    ("--dns-search", "DOMAIN", "search domain of containers that name none"),
    ("--dns-opt", "OPTION", "option of resolv.conf of containers that name none"),
    ("--host-gateway-ip", "ADDRESS", "what host-gateway means in --add-host (the default bridge's address)"),
)


def names() -> tuple[str, ...]:
    return (*(name for name, _, _ in OPTIONS), *(name for name, _ in SWITCHES), *(name for name, _, _ in REPEATED))
