"""The kinds that pynet brings: to import this is to have them in the table."""

from __future__ import annotations

from . import (
    bridge,
    flows,
    host_access,
    ipvlan,
    listeners,
    macvlan,
    names,
    namespace,
    parent,
    proxy_ports,
    resolver,
    route,
    rules,
    shaper,
    sysctl,
    veth,
)

MODULES = (
    *(sysctl, namespace, names, resolver, bridge, parent, host_access, veth, macvlan, ipvlan, shaper),
    *(route, listeners, rules, proxy_ports, flows),
)
