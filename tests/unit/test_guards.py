"""Rules that keep a class of defect from coming back: each was an attack or an outage once.

They read the source. A new place that breaks one either does it another way, or is listed here with the reason why it may.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
ROOMS = ("cli", "drivers", "engine", "ipam", "names", "netlib", "plugins", "proxy", "runtime")


def modules(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (TOP / room).rglob("*.py"))


def name_of(node: ast.expr) -> str:
    """ "os.path.join" of such an expression, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := name_of(node.value)):
        return f"{before}.{node.attr}"
    return ""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """(function that it stands in, call) of a module; the innermost function."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield function, child
            inner = child.name if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text()), "")


# -- paths of a container --------------------------------------------------------------------------------------------

BY_PATH = {
    "open", "os.access", "os.chdir", "os.chmod", "os.chown", "os.execve", "os.link", "os.listdir", "os.listxattr", "os.lstat",
    "os.makedirs", "os.mkdir", "os.mkfifo", "os.mknod", "os.open", "os.readlink", "os.remove", "os.removedirs", "os.rename",
    "os.replace", "os.rmdir", "os.scandir", "os.stat", "os.statvfs", "os.symlink", "os.truncate", "os.unlink", "os.utime",
    "os.walk", "k.mount", "k.openat2", "k.pivot_root", "k.umount2", "linux.open_tree",
}  # fmt: skip
"""Calls that follow a path, when they are given one: a directory's descriptor makes them right (``dir_fd=``, a first
argument for the last two), an empty path too."""
ALLOWED = {
    ("enter", "_write", "os.open"): "before the namespaces: cgroups and /proc/self of the host's",
    ("enter", "_mount_all", "os.open"): "before pivot_root: the supervisor's empty directory",
    ("enter", "_mount_all", "k.mount"): "the root of the new mount namespace itself: no path to follow",
    ("enter", "new", "k.pivot_root"): "the working directory, which is the root's descriptor",
    ("enter", "new", "k.umount2"): "the working directory",
    ("enter", "new", "os.chdir"): "the root itself: no path to follow",
    (
        "mounts",
        "prepare",
        "linux.open_tree",
    ): "before the root is attached: the source is the host's, as the user named it",
    ("mounts", "mount_system", "linux.open_tree"): "before pivot_root: the host's /sys",
    ("mounts", "make_node", "linux.open_tree"): "before pivot_root: the host's own device",
    ("devices", "look", "os.stat"): "before anything of the container is there: the host's own device",
    ("devices", "of_host", "os.walk"): "before anything of the container is there: the host's /dev",
    ("devices", "of_host", "os.lstat"): "before anything of the container is there: the host's /dev",
    ("devices", "_write", "os.open"): "before anything of the container is there: the host's cgroup tree",
    ("device_filter", "guard", "os.open"): "before anything of the container is there: the host's cgroup tree",
    ("mounts", "attach_user_mount", "os.readlink"): "before pivot_root: the host's /proc, of our own descriptor",
    ("process", "_identify", "os.open"): "the root itself: no path to follow",
    ("process", "_finish", "os.chdir"): "the root itself: no path to follow",
    ("process", "_finish", "k.openat2"): "below the root, which is the working directory",
    ("process", "_finish", "os.execve"): "the program's own path; nothing is left open that it could lead through",
    ("program", "find", "os.stat"): "the program's own path; nothing is opened, and nothing is left open",
    ("program", "find", "os.access"): "the program's own path; nothing is opened, and nothing is left open",
}
"""(module of runtime/child, function, call): why it may."""


def follows_a_path(call: ast.Call) -> bool:
    name = name_of(call.func)
    if name not in BY_PATH or any(keyword.arg == "dir_fd" for keyword in call.keywords):
        return False
    if name == "k.openat2":
        return any(k.arg == "resolve" and "IN_ROOT" not in ast.unparse(k.value) and "BENEATH" not in ast.unparse(k.value)
                   for k in call.keywords) or name_of(call.args[0]) == "k.AT_FDCWD"  # fmt: skip
    if name == "linux.open_tree":
        return not (isinstance(call.args[1], ast.Constant) and call.args[1].value == "")
    return True


def test_a_child_follows_no_path_of_a_container_by_its_name() -> None:
    """CVE-2024-21626, CVE-2025-31133, CVE-2025-52565: a string is followed with whatever root and descriptors there are."""
    found = {
        (path.stem, function, name_of(call.func))
        for path in modules("runtime/child")
        for function, call in calls(path)
        if follows_a_path(call)
    }
    assert found - set(ALLOWED) == set(), "openat2 below a descriptor, or the list with a reason"
    assert set(ALLOWED) - found == set(), "reasons for what is not there any more"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("os.open(path, 0)", True),
        ("os.open(path, 0, dir_fd=root)", False),
        ("k.openat2(root, path, 0)", False),
        ("k.openat2(k.AT_FDCWD, path, 0)", True),
        ("k.openat2(root, path, 0, resolve=0)", True),
        ("linux.open_tree(fd, '')", False),
        ("linux.open_tree(fd, 'dev/null')", True),
        ("shape.open(path)", False),
    ],
)
def test_what_follows_a_path(source: str, expected: bool) -> None:
    call = ast.parse(source, mode="eval").body
    assert isinstance(call, ast.Call)
    assert follows_a_path(call) is expected


def test_a_child_imports_nothing_late_and_nothing_of_the_supervisors() -> None:
    """After pivot_root a module would come from the image; and what the child is told are values."""
    for path in modules("runtime/child"):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert all(node in tree.body for node in imports), f"{path.name} imports late"
        assert not [n for n in imports if isinstance(n, ast.ImportFrom) and "supervisor" in (n.module or "")], path.name


# -- trees, helpers ----------------------------------------------------------------------------------------------------


def test_trees_are_removed_by_one_function_that_does_not_recurse() -> None:
    """shutil.rmtree ends in RecursionError at some 1,000 directories: a container could end the daemon."""
    for path in modules(*ROOMS):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            attribute = node.attr if isinstance(node, ast.Attribute) else ""
            assert "rmtree" not in (*names, attribute), (
                f"{path.relative_to(TOP)}: netlib/kernel/tree.py has remove_tree"
            )


def test_helpers_are_started_isolated() -> None:
    """Without -I a Python would import from the working directory and from $PYTHONPATH, as root."""
    seen = 0
    for path in modules(*ROOMS):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, (ast.List, ast.Tuple)):
                continue
            words = [item.value if isinstance(item, ast.Constant) else name_of(item) for item in node.elts]
            ours = any(isinstance(word, str) and word.startswith("pynet.") for word in words)
            if "-m" in words and (ours or "sys.executable" in words):
                seen += 1
                assert "-I" in words[: words.index("-m")], f"{path.relative_to(TOP)}: {words}"
    assert seen >= 6, "the rule does not see what it is for"


def test_calls_of_the_c_library_are_made_again_when_interrupted() -> None:
    """EINTR of a tee(2) lost a container's exit: every function of libc's goes through ``call``."""
    for name in ("netlib/kernel/syscall.py", "runtime/linux.py"):
        for function, call in calls(TOP / name):
            called = name_of(call.func)
            assert not called.startswith(("_libc.", "_tee", "_syscall")), f"{name}: {function} calls {called} itself"
