"""The house's own promises: who may import whom, no circles, layout, packaging tables."""

from __future__ import annotations

import ast
import itertools
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from support.imports import circle, imports, only, path_between

TOP = Path(__file__).parents[2]
ROOMS = ("cli", "drivers", "engine", "ipam", "names", "netlib", "plugins", "proxy", "runtime")
FOUNDATION = {
    "engine.grammar",
    "netlib.control",
    "netlib.durations",
    "netlib.errors",
    "netlib.ifname",
    "netlib.ipc",
    "netlib.kernel.syscall",
    "netlib.kernel.tree",
    "netlib.naming",
    "netlib.ports.bind",
    "netlib.ports.told",
    "netlib.ports.portspec",
    "netlib.timestamps",
    "netlib.version",
    "proxy.dataplane.lane",
    "proxy.start",
}
MAY_IMPORT: dict[str, set[str]] = {
    "ipam": set(),
    "netlib": {"ipam"},
    "drivers": {"netlib", "ipam"},
    "names": set(),
    "proxy": set(),
    "runtime": set(),
    "engine": {"netlib", "drivers", "ipam", "runtime", "proxy", "names"},
    "plugins": {"netlib", "drivers", "ipam"},
    "cli": set(),
}
"""docs/design.md, the table's right column; the foundation is everybody's."""
EXCEPTIONS = {
    ("netlib/driver.py", "drivers"): "the registry of drivers loads the built-in ones by name",
}

RUN_CIRCLES: set[tuple[str, str]] = set()
"""Imports that close a circle at run time."""
TYPING_CIRCLES: dict[tuple[str, str], str] = {}
"""Imports for the type checkers alone that close a circle, and why each may stay."""

NEVER: dict[str, tuple[str, ...]] = {
    "runtime.child": ("runtime.supervisor", "runtime.images", "runtime.client"),
    "runtime.supervisor": ("runtime.images", "runtime.client"),
    "runtime.images": ("runtime.supervisor", "runtime.child", "runtime.client"),
    "runtime.client": ("runtime.supervisor", "runtime.images", "runtime.child"),
    "proxy.dataplane": ("proxy.process", "proxy.standalone", "proxy.api"),
    "proxy.process": ("proxy.standalone", "proxy.api"),
    "netlib.kernel": ("netlib",),
    "netlib.store": ("netlib.controller", "netlib.firewall", "netlib.kernel"),
    "netlib.firewall.nftables": ("netlib.firewall.iptables",),
    "netlib.firewall.iptables": ("netlib.firewall.nftables",),
    "engine": ("engine.api",),
    "cli": ("cli.commands",),
    "cli.commands": ("cli.main",),
}
"""What the modules of a folder never import, itself and the foundation apart: a room within a room."""
WIRING = {"engine.daemon": "the process: it wires services and doors, and is imported by nobody"}
STILL: set[tuple[str, str]] = set()
"""Imports against NEVER."""


def modules() -> list[Path]:
    return sorted(path for room in ROOMS for path in (TOP / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Our own modules that *path* imports, as "room.module", wherever in the file."""
    package = path.relative_to(TOP).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module or "").split(".")] if node.module else list(base)
            found.add(".".join(target))
            found.update(".".join([*target, alias.name]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pynet":
            found.add("pynet")
        elif isinstance(node, ast.Import):
            found.update("pynet" for alias in node.names if alias.name.partition(".")[0] == "pynet")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(TOP)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    name = str(path.relative_to(TOP))
    room = path.relative_to(TOP).parts[0]
    for target in imported(path):
        assert target != "pynet", f"{name}: inside the package import relatively"
        other = target.partition(".")[0]
        if other in ("", room) or other not in ROOMS or (name, other) in EXCEPTIONS:
            continue
        if any(target == known or target.startswith(known + ".") for known in FOUNDATION):
            continue
        if any(known.startswith(target + ".") for known in FOUNDATION):
            continue  # the package on the way to a foundation module; its names are checked one by one
        assert other in MAY_IMPORT[room], f"{name} imports {target}: {room} may not"


def without(edges: dict[str, set[str]], allowed: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    gone = set(allowed)
    return {name: {other for other in others if (name, other) not in gone} for name, others in edges.items()}


def test_no_circle_exists_at_run_time() -> None:
    """A late import hides a circle, it does not open it: both kinds count."""
    edges = only(imports(TOP, ROOMS), "load", "late")
    found = circle(without(edges, RUN_CIRCLES))
    assert not found, f"these import one another: {' -> '.join(found)}"


def test_a_circle_for_type_checking_has_its_reason() -> None:
    edges = only(imports(TOP, ROOMS), "load", "late", "typing")
    found = circle(without(edges, {*RUN_CIRCLES, *TYPING_CIRCLES}))
    assert not found, f"these import one another: {' -> '.join(found)}"


def test_the_lists_of_circles_only_shrink() -> None:
    graph = imports(TOP, ROOMS)
    for allowed, times in ((RUN_CIRCLES, ("load", "late")), (set(TYPING_CIRCLES), ("load", "late", "typing"))):
        edges = only(graph, *times)
        opened = {(a, b) for a, b in allowed if b not in edges.get(a, ()) or not path_between(edges, b, a)}
        assert not opened, f"no longer part of a circle, take them off the list: {sorted(opened)}"
    for edge in TYPING_CIRCLES:
        assert graph[edge[0]][edge[1]] == {"typing"} or edge in RUN_CIRCLES, f"{edge} exists at run time"


def inside(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}.")


def against_the_rules() -> set[tuple[str, str]]:
    """The imports that NEVER forbids, listed or not; and those of one command by another."""
    found: set[tuple[str, str]] = set()
    for name, others in imports(TOP, ROOMS).items():
        for other in others.keys() - FOUNDATION:
            for folder, forbidden in NEVER.items():
                for room in forbidden:
                    at_home = inside(name, room) if inside(room, folder) else inside(other, folder)
                    if inside(name, folder) and inside(other, room) and not at_home and name not in WIRING:
                        found.add((name, other))
            if inside(name, "cli.commands") and inside(other, "cli.commands") and ".commands._" not in other:
                found.add((name, other))
    return found


def test_rooms_within_rooms_keep_to_themselves() -> None:
    found = against_the_rules()
    assert not found - STILL, f"never imported from there (NEVER): {sorted(found - STILL)}"
    assert not STILL - found, f"gone, take them off the list: {sorted(STILL - found)}"


def test_the_rules_speak_of_modules_that_exist() -> None:
    known = set(imports(TOP, ROOMS))
    for folder, forbidden in NEVER.items():
        for room in (folder, *forbidden):
            assert any(inside(name, room) for name in known), f"no {room}"
    assert set(WIRING) <= known


def test_packages_on_the_way_to_the_foundation_are_empty() -> None:
    for room in ROOMS:
        for path in (TOP / room).rglob("__init__.py"):
            assert not ast.parse(path.read_text()).body, f"{path.relative_to(TOP)} must stay empty"


def test_links_packaging_and_checkers_agree_on_the_rooms() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    links = {path.name: os.readlink(path) for path in (TOP / "src/pynet").iterdir() if path.is_symlink()}
    assert links == {room: f"../../{room}" for room in ROOMS}
    build = project["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {room: f"pynet/{room}" for room in ROOMS}
    assert {f"/{room}" for room in ROOMS} <= set(build["sdist"]["include"])
    assert set(project["tool"]["pyright"]["include"]) == {*ROOMS, "tests"}
    assert set(project["tool"]["coverage"]["run"]["source_dirs"]) == {*ROOMS, "src/pynet"}


def test_the_umbrella_names_what_an_embedding_program_begins_with() -> None:
    """Nothing is loaded before it is asked for; the names for type checkers and those at run time are the same."""
    import pynet

    tree = ast.parse((TOP / "src/pynet/__init__.py").read_text())
    typed = {
        alias.name: f".{node.module}"
        for branch in ast.walk(tree) if isinstance(branch, ast.If)
        for node in branch.body if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }  # fmt: skip
    assert typed == pynet._WHERE
    assert sorted(pynet.__all__) == sorted(pynet._WHERE)
    for name in pynet.__all__:
        assert getattr(pynet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = pynet.Nonsense


def test_the_distribution_is_named_alike_wherever_it_is_named() -> None:
    """The public index has another project called pynet: what `pip install` is told must not fetch that."""
    name = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["name"]
    assert name == "pynet-containers"
    places = [*TOP.glob("*.md"), *(TOP / "docs").glob("*.md"), *modules(), TOP / ".ci/setup", TOP / ".ci/matrix"]
    for path in places:
        for named in re.findall(r"pip install[^\n]*?['\" ](pynet[\w-]*)(?:\[|['\"])", path.read_text()):
            assert named == name, f"{path.relative_to(TOP)}: pip install {named}"


def test_built_in_drivers_are_entry_points_too() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    entries = project["project"]["entry-points"]["pynet.drivers"]
    from pynet.netlib.driver import load_driver

    for name in entries:
        driver = load_driver(name)
        assert driver.name == name
        module, _, attribute = entries[name].partition(":")
        assert (type(driver).__module__, type(driver).__name__) == (module, attribute)


WALKS = """
    cli.commands.run > cli.options > netlib.ports.portspec
    engine.api.routes_containers > engine.container.run > engine.container.attachment > netlib.handles
    engine.container.create > engine.container.hostconfig > netlib.ports.portspec
    netlib.handles > netlib.membership > netlib.decisions
    netlib.membership > netlib.core > netlib.plans > netlib.kinds.listeners
    netlib.plans > netlib.kinds.rules
    netlib.plans > netlib.kinds.proxy_ports
    netlib.membership > netlib.change > netlib.applier
    netlib.core > netlib.tools > netlib.ports.hostports
    proxy.process.control > proxy.process.service > proxy.dataplane.tcp
    netlib.core > netlib.addressing > ipam.driver > ipam.pool
    netlib.plans > netlib.kinds.flows
    drivers.bridge > netlib.kinds.veth
"""
"""The walks of docs/design.md as imports: a reader finds the next room of a walk by following one."""


def test_the_walks_of_the_design_are_what_imports_lead_through() -> None:
    edges = only(imports(TOP, ROOMS), "load", "late", "typing")
    page = (TOP / "docs/design.md").read_text()
    for walk in WALKS.split("\n"):
        steps = walk.split()[::2]
        for step, following in itertools.pairwise(steps):
            assert following in edges[step], f"{step} does not lead to {following}"
        for step in steps:
            assert f"{step.rpartition('.')[2]}.py" in page, f"docs/design.md does not speak of {step}"


def test_the_design_names_the_foundation() -> None:
    page = (TOP / "docs/design.md").read_text()
    listed = page[page.index("*Foundation*") : page.index("and the umbrella package's")]
    named = {name.removesuffix(".py").strip("/").replace("/", ".") for name in re.findall(r"`([^`]+)`", listed)}
    assert named == FOUNDATION
