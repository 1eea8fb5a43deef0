"""Our own code beside the library that could stand in its place: what each costs, by turns, in one table.

    python bench/bench_libraries.py [ROUNDS]

A row each for what is written by hand here although there is a library for it.  Start-up is CPU time of whole processes,
which a busy machine disturbs less than the clock; the rest is the clock in one process.  Peers that are not installed
(psutil, namesgenerator, isal, zstandard) leave their rows out.  The netlink and firewall rows are bench_rtnetlink.py's and
bench_firewall.py's, the event loop's and the datagrams' are at home with their rooms.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import os
import random
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from bench_cli import NOWHERE, PS, run
from table import Row, render

from pynet.engine.container.usage import top
from pynet.runtime.images.inflate import PIECE, Inflated
from pynet.runtime.images.tarstream import TarReader

OWN = [sys.executable, "-I", "-c"]
Case = tuple[str, str, str, Callable[[], float], Callable[[], float]]
"""Name, unit, the peer's name; one measurement of ours, one of theirs."""


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def clock(work: Callable[[], object]) -> Callable[[], float]:
    """Milliseconds."""

    def once() -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1000

    return once


def start(code: str) -> Callable[[], float]:
    """CPU milliseconds of a process that runs *code*."""
    null = os.open(os.devnull, os.O_WRONLY)
    return lambda: run([*OWN, code], null)[0]


# -- the command line ------------------------------------------------------------------------------------------------


def command_line() -> list[Case]:
    template = f"import sys; sys.argv = ['pynet', '--host', '{NOWHERE}', 'ps', '--format', '{{{{.ID}}}}']; "
    template += "from pynet.cli.main import main; main()"
    cases: list[Case] = [
        ("`pynet ps`: cli/parser, or argparse beside it", "CPU ms", "argparse", start(PS), start(f"import argparse; {PS}")),
        ("`pynet ps`: cli/http1, or http.client", "CPU ms", "http.client", start(PS), start(f"import http.client; {PS}")),
        ("`pynet ps`: cli/textjson, or json", "CPU ms", "json", start(PS), start(f"import json; {PS}")),
        ("loading cli/template and cli/gofuncs, or pass", "CPU ms", "python -c pass",
         start("import pynet.cli.template"), start("pass")),
    ]  # fmt: skip
    if has("jinja2"):  # no library knows Go's templates; this is what one for others costs
        cases.append(
            (
                "loading cli/template, or jinja2",
                "CPU ms",
                "jinja2",
                start("import pynet.cli.template"),
                start("import jinja2"),
            )
        )
    return cases


# -- layers ----------------------------------------------------------------------------------------------------------


def make_layer(files: int = 8000) -> bytes:
    """A layer like a distribution's: many small files, some of text, some of what does not compress."""
    chance = random.Random(1)
    words = [b"the", b"of", b"usr", b"lib", b"python", b"return", b"import", b"\n", b"    ", b"static int "]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(files):
            info = tarfile.TarInfo(f"usr/lib/python3/dist-packages/package{number % 97}/module-{number}.py")
            text = b" ".join(chance.choices(words, k=chance.randrange(1500)))
            data = text if number % 4 else chance.randbytes(len(text) // 2)
            info.size, info.mtime = len(data), 1_700_000_000 + number
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


def layers() -> list[Case]:
    layer = make_layer()
    packed = gzip.compress(layer, 6)

    def ours() -> None:
        reader = TarReader(Inflated(io.BytesIO(layer)))
        for _ in reader:
            for _ in reader.data():
                pass

    def by_tarfile() -> None:
        """As stored: what Inflated does beside, both digests, is done here as well."""
        raw, plain = hashlib.sha256(layer), hashlib.sha256(layer)
        with tarfile.open(fileobj=io.BytesIO(layer), mode="r|", bufsize=PIECE) as archive:
            for info in archive:
                file = archive.extractfile(info)
                while file is not None and file.read(PIECE):
                    pass
        assert raw.digest() == plain.digest()

    def inflated(module: str | None) -> Callable[[], None]:
        def work() -> None:
            kept = sys.modules.get("isal.isal_zlib")
            if module is None:
                sys.modules["isal.isal_zlib"] = None  # type: ignore[assignment]
            try:
                Inflated(io.BytesIO(packed)).drain()
            finally:
                if module is None:
                    del sys.modules["isal.isal_zlib"]
                    if kept is not None:
                        sys.modules["isal.isal_zlib"] = kept

        return work

    def by_gzip() -> None:
        raw, plain = hashlib.sha256(packed), hashlib.sha256()
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            while piece := file.read(PIECE):
                plain.update(piece)
        assert raw.digest() != plain.digest()

    size = f"{len(layer) >> 20} MiB, 8,000 files"
    fast, slow = clock(inflated("isal")), clock(inflated(None))
    cases: list[Case] = [(f"tar of {size}: tarstream, or tarfile", "ms", "tarfile", clock(ours), clock(by_tarfile))]
    if has("isal"):
        cases.append((f"gzip of {size}: inflate with isal, or with zlib", "ms", "zlib", fast, slow))
        cases.append((f"gzip of {size}: inflate with isal, or gzip", "ms", "gzip", fast, clock(by_gzip)))
    cases.append((f"gzip of {size}: inflate with zlib, or gzip", "ms", "gzip", slow, clock(by_gzip)))
    if has("zstandard"):
        import zstandard

        squeezed = zstandard.ZstdCompressor().compress(layer)

        def by_reader() -> None:
            raw, plain = hashlib.sha256(squeezed), hashlib.sha256()
            with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(squeezed)) as file:
                while piece := file.read(PIECE):
                    plain.update(piece)
            assert raw.digest() != plain.digest()

        def in_slices() -> None:
            Inflated(io.BytesIO(squeezed)).drain()

        name = f"zstd of {size}: inflate in slices, or stream_reader"
        cases.append((name, "ms", "zstandard.stream_reader", clock(in_slices), clock(by_reader)))
    return cases


# -- processes, names ------------------------------------------------------------------------------------------------


def processes() -> list[Case]:
    if not has("psutil"):
        return []
    import psutil

    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()][:60]
    wanted = ["username", "pid", "ppid", "create_time", "terminal", "cpu_times", "cmdline", "name"]

    def theirs() -> None:
        for pid in pids:
            try:
                psutil.Process(pid).as_dict(wanted)
            except psutil.NoSuchProcess:
                pass

    name = f"`top` of {len(pids)} processes: container/usage, or psutil"
    return [(name, "ms", "psutil", clock(lambda: top(pids, "")), clock(theirs))]


def names() -> list[Case]:
    if not has("namesgenerator"):
        return []
    return [
        ("loading container/names, or namesgenerator", "CPU ms", "namesgenerator",
         start("import pynet.engine.container.names"), start("import namesgenerator")),
    ]  # fmt: skip


def modules(code: str) -> int:
    """How many modules a process loads."""
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", "-c", code], capture_output=True, text=True, check=False
    )
    return sum(line.startswith("import time:") for line in done.stderr.splitlines())


def measure(rounds: int) -> list[Row]:
    cases = [*command_line(), *layers(), *processes(), *names()]
    rows = [Row(name, unit, [], [], peer) for name, unit, peer, _, _ in cases]
    for number in range(rounds + 1):
        for row, (_, _, _, ours, theirs) in zip(rows, cases, strict=True):
            pair = (ours(), theirs()) if number % 2 else (theirs(), ours())[::-1]
            if number:  # the first warms caches and writes byte code
                row.ours.append(pair[0])
                row.theirs.append(pair[1])
    return [Row(row.name, row.unit, row.ours, row.theirs, row.peer) for row in rows]


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(render(measure(rounds)))
    ways = {"as it is": PS} | {name: f"import {name}; {PS}" for name in ("argparse", "http.client", "json")}
    counts = {what: modules(code) for what, code in ways.items()}
    print("\nmodules loaded by `pynet ps`: " + ", ".join(f"{count} ({what})" for what, count in counts.items()))
    print(f"zlib {zlib.ZLIB_RUNTIME_VERSION}, python {sys.version.split()[0]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
