"""The house's own promises: who may import whom, layout, packaging tables."""

from __future__ import annotations

import ast
import os
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
ROOMS = ("cli", "drivers", "engine", "ipam", "netlib", "plugins", "proxy", "runtime")
FOUNDATION = {
    "netlib.durations",
    "netlib.errors",
    "netlib.ipc",
    "netlib.kernel.syscall",
    "netlib.ports.bind",
    "netlib.version",
}
MAY_IMPORT: dict[str, set[str]] = {
    "ipam": set(),
    "netlib": {"ipam"},
    "drivers": {"netlib", "ipam"},
    "proxy": set(),
    "runtime": set(),
    "engine": {"netlib", "drivers", "ipam", "runtime", "proxy"},
    "plugins": {"netlib", "drivers", "ipam"},
    "cli": set(),
}
"""docs/design.md, the table's right column; the foundation is everybody's."""
EXCEPTIONS = {
    ("cli/playground.py", "netlib"): "the playground plays a test host: it plumbs a LAN",
    ("netlib/driver.py", "drivers"): "the registry of drivers loads the built-in ones by name",
}


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


def test_built_in_drivers_are_entry_points_too() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    entries = project["project"]["entry-points"]["pynet.drivers"]
    from pynet.netlib.driver import load_driver

    for name in entries:
        driver = load_driver(name)
        assert driver.name == name
        module, _, attribute = entries[name].partition(":")
        assert (type(driver).__module__, type(driver).__name__) == (module, attribute)
