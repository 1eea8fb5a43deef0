"""The kinds that pynet brings: to import this is to have them in the table."""

from __future__ import annotations

from . import bridge, flows, listeners, namespace, proxy_ports, route, rules, shaper, sysctl, veth

MODULES = (sysctl, namespace, bridge, veth, shaper, route, listeners, rules, proxy_ports, flows)
