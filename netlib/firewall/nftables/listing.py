"""The kernel's listing of our table (libnftables-json(5)) in, intents out: what render.py wrote, read back."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from ..intents import Mode, NetworkRules, PortKey, PortRule
from .render import ADDRESS, CHAINS

T = TypeVar("T")


def is_complete(objects: Iterable[dict[str, Any]]) -> bool:
    """Whether a table's listing has all fixed rules: each chain as many as it should (nobody but us writes there)."""
    found = Counter(item["rule"]["chain"] for item in objects if "rule" in item)
    return all(found[chain] == len(rules) for chain, (_, rules) in CHAINS.items())


def fixed(objects: Iterable[dict[str, Any]]) -> list[Any]:
    """What of a listing only changes when somebody else changes it: the table's flags, chains with their hooks and policies,
    rules word by word.  The user's chain may hold what it likes."""
    found: list[Any] = []
    for item in objects:
        for kind, names in (("table", ("flags",)), ("chain", ("name", "type", "hook", "prio", "policy"))):
            if kind in item:
                found.append({name: item[kind].get(name) for name in names})
        if (rule := item.get("rule")) is not None and rule["chain"] in CHAINS:
            found.append((rule["chain"], rule.get("expr")))
    return found


def parse(objects: Iterable[dict[str, Any]]) -> tuple[list[NetworkRules], list[PortRule]]:
    """Intents from ``list table`` in libnftables-json(5)'s form.

    An element of a form that we do not write is somebody else's, and no intent: it must not keep us from reading our own.
    """
    elements: dict[str, list[Any]] = {}
    for item in objects:
        for kind in ("set", "map"):
            if kind in item:
                elements[item[kind]["name"]] = item[kind].get("elem", [])
    return list(_networks(elements)), list(_ports(elements))


def _read(elements: Iterable[Any], read: Callable[[Any], T]) -> Iterator[T]:
    for element in elements:
        try:
            yield read(element)
        except (KeyError, TypeError, ValueError):
            pass


def _plain(key: Any) -> Any:
    """A key without what may be said about it."""
    return key["elem"]["val"] if isinstance(key, dict) and "elem" in key else key


def _prefix(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    return f"{value}/{128 if ':' in value else 32}"


def _name(key: Any) -> str:
    name = _plain(key)
    if not isinstance(name, str):
        raise TypeError
    return name


def _owned(key: Any) -> tuple[str, str]:
    subnet, bridge = _plain(key)["concat"]
    return _prefix(subnet), _name(bridge)


def _trusted(key: Any) -> tuple[str, str]:
    interface, bridge = _plain(key)["concat"]
    return _name(interface), _name(bridge)


def _same(element: Any) -> tuple[str, bool]:
    key, verdict = element
    return _name(_plain(key)["concat"][0]), "accept" in verdict


def _source(element: Any) -> tuple[str, str]:
    subnet, source = element
    return _prefix(_plain(subnet)), _name(source)


def _networks(elements: dict[str, list[Any]]) -> Iterator[NetworkRules]:
    icc = dict(_read(elements.get("same", []), _same))
    subnets: defaultdict[str, list[str]] = defaultdict(list)
    masqueraded: set[str] = set()
    sources: dict[str, str] = {}
    for v in ADDRESS:
        for subnet, bridge in _read(elements.get(f"own{v}", []), _owned):
            subnets[bridge].append(subnet)
        masqueraded.update(_read(elements.get(f"masq{v}", []), lambda key: _prefix(_plain(key))))
        sources |= dict(_read(elements.get(f"snat{v}", []), _source))
    trusted: defaultdict[str, list[str]] = defaultdict(list)
    for interface, bridge in _read(elements.get("trusted", []), _trusted):
        trusted[bridge].append(interface)
    internals, loopbacks = (set(_read(elements.get(name, []), _name)) for name in ("internal", "loopback"))
    modes: dict[tuple[str, str], Mode] = {}
    for v in ADDRESS:
        modes |= dict.fromkeys(((bridge, v) for bridge in _read(elements.get(f"routed{v}", []), _name)), "routed")
        modes |= dict.fromkeys(
            ((bridge, v) for bridge in _read(elements.get(f"direct{v}", []), _name)), "nat-unprotected"
        )
    for bridge in _read(elements.get("bridges", []), _name):
        own = sorted(subnets[bridge], key=lambda text: (":" in text, text))
        internal = bridge in internals
        yield NetworkRules(
            bridge=bridge,
            subnets=tuple(own),
            internal=internal,
            # of a network without a subnet nobody can tell, and it does not matter
            masquerade=not internal and (not own or any(s in masqueraded or s in sources for s in own)),
            icc=icc.get(bridge, True),
            source=tuple(dict.fromkeys(sources[s] for s in own if s in sources)),
            loopback=bridge in loopbacks,
            mode4=modes.get((bridge, "4"), "nat"),
            mode6=modes.get((bridge, "6"), "nat"),
            trusted=tuple(sorted(trusted[bridge])),
        )


def _ports(elements: dict[str, list[Any]]) -> Iterator[PortRule]:
    for name in ("ports4", "ports6", "hostports4", "hostports6", "lohostports4", "proxied4", "proxied6"):
        yield from _read(elements.get(name, []), _port)
    for v in ADDRESS:
        yield from _read(elements.get(f"open{v}", []), _open_port)
        yield from _read(elements.get(f"linked{v}", []), _linked_port)


def _open_port(key: Any) -> PortRule:
    address, proto, port = _plain(key)["concat"]
    comment = key["elem"].get("comment", "") if "elem" in key else ""
    return PortRule(_name(proto), "", 0, _name(address), int(port), comment)


def _linked_port(key: Any) -> PortRule:
    source, *rest = _plain(key)["concat"]
    comment = key["elem"].get("comment", "") if "elem" in key else ""
    return replace(_open_port({"elem": {"val": {"concat": rest}, "comment": comment}}), source=_name(source))


def _port(element: Any) -> PortRule:
    key, data = element
    comment = key["elem"].get("comment", "") if "elem" in key else ""
    *host, proto, port = _plain(key)["concat"]
    target_ip, target_port = data["concat"]
    return PortRule(_name(proto), host[0] if host else "", int(port), target_ip, int(target_port), comment)


def counts(objects: Iterable[dict[str, Any]]) -> Iterator[tuple[PortKey, int]]:
    """Packets that the elements of listed maps have counted, by the port that they are of."""
    for item in objects:
        yield from _read(item.get("map", {}).get("elem", []), _count)


def _count(element: Any) -> tuple[PortKey, int]:
    return _port(element).key, int(element[0]["elem"]["counter"]["packets"])
