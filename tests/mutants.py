"""``make mutants``: do the tests see plausible mistakes?  ``python tests/mutants.py --help``

    sample            a seeded one of all rooms (support/mutation.py makes them), security's modules three times as likely
      -> scratch      a copy of the tree with the mistake, and an environment whose pynet is that copy
      -> first        the tests that import or name the module, the quickest kind first
      -> then         the rest of the room's tests (ROOMS), until a time limit
      -> verdict      killed (by which test), survived, timed out, or equivalent (mutants.toml says why)

A test that fails for a mistake is run again without it, and once more with it: one that fails without it, or not twice with
it, is no witness, and is left out from there on.

What is run is somebody's mistake with root's rights: it lives in pid, mount and cgroup namespaces of its own, where everything
but its scratch directory and the control groups can only be read, and ends with them.  Each verdict is a line of
.mutants/results.jsonl as soon as it is known; the same command goes on where it was stopped.

mutmut and cosmic-ray were looked at.  Both make their mistakes in modules that the test process imports; most of what matters
here runs in processes that are started with ``python -I -m pynet...`` and see neither mutmut's switch nor its copy.  Neither
leaves out a statement or swaps two, which are half of what hand-made mistakes had shown; and both want the whole suite for
each mistake, five minutes here.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests"))
from support.mutation import Mutant, mutants  # noqa: E402

STATE = TOP / ".mutants"
ROOMS: dict[str, tuple[str, ...]] = {
    "ipam": ("unit/test_ipam*", "unit/test_dhcp*", "kernel/test_dhcp*", "kernel/test_controller*"),
    "netlib": ("unit/test_port*", "unit/test_rtnl*", "unit/test_firewall*", "unit/test_store*", "unit/test_gateway*",
               "unit/test_ipc*", "kernel/test_controller*", "kernel/test_kernel*", "kernel/test_firewall*",
               "kernel/test_docs*", "kernel/test_host*", "kernel/test_link*", "system/test_engine_api*"),
    "drivers": ("unit/test_bridge*", "unit/test_macvlan*", "kernel/test_macvlan*", "kernel/test_controller*",
                "system/test_engine_api*"),
    "proxy": ("unit/test_proxy*", "kernel/test_proxy*", "system/test_proxy*", "system/test_port_stats*"),
    "names": ("unit/test_names*", "kernel/test_names*", "system/test_names*"),
    "runtime": ("unit/test_runtime*", "unit/test_image*", "kernel/test_runtime*", "kernel/test_image*",
                "system/test_runtime*", "system/test_engine_api*", "system/test_docker_client*"),
    "engine": ("unit/test_engine*", "system/test_engine*", "system/test_docker_client*", "system/test_survival*"),
    "plugins": ("kernel/test_plugin*", "kernel/test_leaks*"),
    "cli": ("unit/test_cli*", "system/test_cli*"),
}  # fmt: skip
"""Below tests/, which test modules belong to a room."""
SECURITY = (
    *("runtime/child/", "runtime/images/unpack", "runtime/images/directories", "runtime/images/remove"),
    *("runtime/supervisor/seccomp", "runtime/child/devices", "engine/container/mounts", "engine/grammar/"),
    *("netlib/firewall/", "netlib/store/", "runtime/supervisor/spawn"),
)
WEIGHT = 3
KINDS = ("unit", "kernel", "system")


@dataclass
class Verdict:
    id: str
    path: str
    line: int
    kind: str
    outcome: str
    by: str
    seconds: float
    diff: str


def modules(only: str) -> list[str]:
    paths = (path.relative_to(TOP).as_posix() for room in ROOMS for path in (TOP / room).rglob("*.py"))
    return sorted(path for path in paths if path.startswith(only) and not path.endswith("cli/demo.py"))


def sample(count: int, seed: str, only: str) -> list[Mutant]:
    """By module, in proportion to its length and weight; then by kind, each alike; then any."""
    dice = random.Random(seed)
    texts = {path: (TOP / path).read_text() for path in modules(only)}
    weights = [len(text.splitlines()) * (WEIGHT if path.startswith(SECURITY) else 1) for path, text in texts.items()]
    made: dict[str, dict[str, list[Mutant]]] = {}
    chosen: dict[str, Mutant] = {}
    for _ in range(20 * count):
        if len(chosen) == count:
            break
        (path,) = dice.choices(list(texts), weights)
        if path not in made:
            made[path] = {}
            for mutant in mutants(path, texts[path]):
                made[path].setdefault(mutant.kind, []).append(mutant)
        if made[path]:
            mutant = dice.choice(made[path][dice.choice(sorted(made[path]))])
            if mutant.compiles(texts[path]):
                chosen.setdefault(identity(mutant, texts[path]), mutant)
    return list(chosen.values())


def identity(mutant: Mutant, text: str) -> str:
    return hashlib.sha256(mutant.diff(text).encode()).hexdigest()[:16]


def equivalents() -> set[tuple[str, str, str]]:
    entries = tomllib.loads((TOP / "tests/mutants.toml").read_text()).get("equivalent", [])
    return {(entry["path"], entry["before"], entry["after"]) for entry in entries}


# -- which tests -------------------------------------------------------------------------------------------------


def witnesses(path: str) -> tuple[list[str], list[str]]:
    """Test modules for a module: those that import or name it, and then the others of its room; unit tests first."""
    dotted = "pynet." + path.removesuffix(".py").replace("/", ".")
    package, _, name = dotted.rpartition(".")
    named = re.compile(rf"{re.escape(dotted)}\b|from {re.escape(package)} import [^\n]*\b{name}\b")
    first: list[str] = []
    for kind in KINDS:
        for test in sorted((TOP / "tests" / kind).glob("test_*.py")):
            if named.search(test.read_text()):
                first.append(test.relative_to(TOP).as_posix())
    rest = [
        test.relative_to(TOP).as_posix()
        for pattern in ROOMS[path.partition("/")[0]]
        for test in sorted((TOP / "tests").glob(f"{pattern}.py"))
    ]
    return first, [test for test in rest if test not in first]


def batches(tests: list[str]) -> list[list[str]]:
    """Unit tests start slower than they run: all in one; the others one by one, so that the time is looked at between them."""
    unit = [test for test in tests if test.startswith("tests/unit/")]
    return [*([unit] if unit else []), *([test] for test in tests if test not in unit)]


# -- running them ------------------------------------------------------------------------------------------------

INSIDE = """
mount --make-rprivate / && mount --bind "$1" "$1" || exit 99
for place in $(cut -d" " -f5 /proc/self/mountinfo); do
    case $place in
        "$1"* | /proc* | /sys* | /dev* | /run*) ;;
        *) mount -o remount,bind,ro "$place" 2>/dev/null || [ "$place" != / ] || exit 99 ;;
    esac
done
mount --bind "$1/tmp" /tmp && cd "$1/tree" || exit 99
shift
"$@"
exit $?
"""
"""sh -c INSIDE sh SCRATCH COMMAND...: only the scratch directory can be written, and it is /tmp as well.  The shell stays: it is
process 1 in there, to whom orphans come, and buries them."""


class Scratch:
    """A copy of the tree, with an interpreter whose ``pynet`` is that copy."""

    def __init__(self, place: Path) -> None:
        self.place, self.tree = place, place / "tree"
        shutil.rmtree(place, ignore_errors=True)
        (place / "tmp").mkdir(parents=True)
        (place / "tmp").chmod(0o1777)  # some tests are nobody's
        listing = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=TOP, capture_output=True, check=True
        )
        for name in filter(None, listing.stdout.decode().split("\0")):
            if (TOP / name).exists() or (TOP / name).is_symlink():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(TOP / name, self.tree / name, follow_symlinks=False)
        environment = place / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        (site,) = environment.glob("lib/python*/site-packages")
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (site / "a.pth").write_text(f"{self.tree / 'src'}\n{ours}\n")
        self.python = environment / "bin/python"
        for command, module in (("pynet", "pynet.cli.main"), ("pynet-proxy", "pynet.proxy.standalone.main")):
            script = environment / "bin" / command
            script.write_text(f"#!{self.python} -I\nfrom {module} import main\nraise SystemExit(main())\n")
            script.chmod(0o755)

    def run(self, tests: list[str], limit: float, left_out: list[str]) -> tuple[int | None, str]:
        """pytest's status (None: out of time) and output."""
        command = [
            *("unshare", "--mount", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", INSIDE, "sh", str(self.place), str(self.python), "-m", "pytest", "-x", "-q", "--no-header"),
            *("--tb=line", "-p", "no:cacheprovider", "--timeout=60"),
            *(word for test in left_out for word in ("--deselect", test)),
            *tests,
        ]
        try:
            done = subprocess.run(command, cwd=self.place, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            for entry in (self.place / "tmp").iterdir():
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
        return done.returncode, done.stdout + done.stderr


def failed(output: str) -> str:
    """The first test that failed, by its id; "" when none is named."""
    found = re.search(r"^(?:FAILED|ERROR) (tests/\S+?\.py(?:::.*?)?)(?: - .*)?$", output, re.MULTILINE)
    return found[1] if found else ""


class Judge:
    """Decides on one mutant after the other, in a scratch directory of its own."""

    def __init__(self, number: int, limit: float) -> None:
        self.mutated = Scratch(STATE / f"{os.getpid()}-{number}/m")
        self.clean = Scratch(STATE / f"{os.getpid()}-{number}/c")
        self.limit = limit
        self.left_out: list[str] = []

    def close(self) -> None:
        shutil.rmtree(self.mutated.place.parent, ignore_errors=True)

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """(outcome, by whom)"""
        text = (TOP / mutant.path).read_text()
        target = self.mutated.tree / mutant.path
        target.write_text(mutant.applied(text))
        try:
            end = time.monotonic() + self.limit
            first, rest = witnesses(mutant.path)
            for tests in [*batches(first), *batches(rest)]:
                outcome = self._ask(tests, end)
                if outcome is not None:
                    return outcome
                if time.monotonic() > end:
                    return "survived", "the time that it had"
            return "survived", ""
        finally:
            target.write_text(text)

    def _ask(self, tests: list[str], end: float) -> tuple[str, str] | None:
        while True:
            status, output = self.mutated.run(tests, max(60.0, end - time.monotonic()), self.left_out)
            if status in (0, 5):
                return None
            name = failed(output)
            if status is None:
                # a hang is a witness too, if it is the mistake's
                if self.clean.run(tests, 4 * self.limit, self.left_out)[0] in (0, 5):
                    return "timed out", tests[0]
                return None
            again = [name or tests[0]]
            innocent = self.clean.run(again, 4 * self.limit, self.left_out)[0] in (0, 5)
            if innocent and self.mutated.run(again, 4 * self.limit, self.left_out)[0] not in (0, 5):
                return "killed", name or f"{tests[0]} (status {status})"
            if not name:
                return None  # not even collected without the mistake, or by chance: no witness
            self.left_out.append(name)


# -- the report --------------------------------------------------------------------------------------------------


def report(verdicts: list[Verdict]) -> Iterator[str]:
    by_room: dict[str, Counter[str]] = defaultdict(Counter)
    for verdict in verdicts:
        for name in (
            verdict.path.partition("/")[0],
            "all",
            *(("security",) if verdict.path.startswith(SECURITY) else ()),
        ):
            by_room[name][verdict.outcome] += 1
    yield "| room | killed | timed out | survived | equivalent | caught |"
    yield "|---|---|---|---|---|---|"
    for room in [*ROOMS, "security", "all"]:
        count = by_room[room]
        judged = count["killed"] + count["timed out"] + count["survived"]
        caught = f"{100 * (judged - count['survived']) / judged:.0f} %" if judged else "-"
        row = (count["killed"], count["timed out"], count["survived"], count["equivalent"])
        yield f"| {room} | {' | '.join(map(str, row))} | {caught} |"
    for verdict in verdicts:
        if verdict.outcome == "survived":
            yield f"\n{verdict.id} survived{' ' + verdict.by if verdict.by else ''}: {verdict.kind}\n{verdict.diff}"


def known(path: Path) -> dict[str, Verdict]:
    if not path.exists():
        return {}
    found = (Verdict(**json.loads(line)) for line in path.read_text().splitlines())
    return {verdict.id: verdict for verdict in found}


def main() -> int:
    parser = argparse.ArgumentParser(description="Make plausible mistakes, and see which of them the tests see.")
    parser.add_argument("--sample", type=int, default=100, metavar="N", help="how many (100)")
    parser.add_argument("--seed", default="1", help="which (1)")
    parser.add_argument("--only", default="", metavar="PATH", help="of modules below this path")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2), metavar="N")
    parser.add_argument("--limit", type=float, default=240.0, metavar="SECONDS", help="of tests for each (240)")
    parser.add_argument("--again", action="store_true", help="judge those that survived once more")
    parser.add_argument("--list", action="store_true", help="show them, and judge none")
    options = parser.parse_args()
    chosen = sample(options.sample, options.seed, options.only)
    texts = {path: (TOP / path).read_text() for path in {mutant.path for mutant in chosen}}
    if options.list:
        for mutant in chosen:
            print(f"{identity(mutant, texts[mutant.path])} {mutant.kind}\n{mutant.diff(texts[mutant.path])}\n")
        return 0
    STATE.mkdir(exist_ok=True)
    (STATE / ".gitignore").write_text("*\n")
    for stale in STATE.glob("*-*/"):  # of a run that was killed
        if not Path("/proc", stale.name.partition("-")[0]).exists():
            shutil.rmtree(stale, ignore_errors=True)
    results = STATE / "results.jsonl"
    done, same = known(results), equivalents()
    judges: dict[int, Judge] = {}
    numbers = itertools.count()  # next() is one step for threads; len(judges) is the same for two that begin at once

    def decide(numbered: tuple[int, Mutant]) -> Verdict:
        number, mutant = numbered
        text = texts[mutant.path]
        id = identity(mutant, text)
        old = done.get(id)
        began = time.monotonic()
        if (mutant.path, *mutant.change(text)) in same:
            outcome, by = "equivalent", ""
        elif old is not None and not (options.again and old.outcome == "survived"):
            return old
        else:
            me = threading.get_ident()
            if me not in judges:
                judges[me] = Judge(next(numbers), options.limit)
            outcome, by = judges[me].judge(mutant)
        verdict = Verdict(
            id, mutant.path, mutant.line, mutant.kind, outcome, by, time.monotonic() - began, mutant.diff(text)
        )
        with open(results, "a") as file:
            file.write(json.dumps(verdict.__dict__) + "\n")
        print(f"{number + 1}/{len(chosen)} {outcome} {mutant.path}:{mutant.line} {mutant.kind} {by}", flush=True)
        return verdict

    try:
        with ThreadPoolExecutor(options.workers) as pool:
            verdicts = list(pool.map(decide, enumerate(chosen)))
    finally:
        for judge in judges.values():
            judge.close()
    lines = "\n".join(report(verdicts))
    (STATE / "report.md").write_text(lines + "\n")
    print(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
