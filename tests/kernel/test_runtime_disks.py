"""Full disks under the supervisor: what it knows of a container survives them, and what a log has is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.kernel import syscall as k
from pynet.runtime.supervisor import logs
from pynet.runtime.supervisor.records import Record
from pynet.runtime.supervisor.supervisor import Supervisor


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    k.mount("none", str(place), "tmpfs", data="size=16k,mode=700")
    yield place
    k.umount2(str(place), k.MNT_DETACH)


def test_a_record_that_does_not_fit_leaves_the_old_one(small: Path) -> None:
    """A short write was renamed over the good record, and the next supervisor deleted it with its container."""
    record = Record(str(small / "c"))
    record.create()
    record.save("state", {"status": "running"})
    with pytest.raises(OSError, match="No space left"):
        record.save("state", {"error": "x" * 20_000})
    assert record.load("state") == {"status": "running"}
    assert os.listdir(small / "c") == ["state.json"]
    record.save("state", {"status": "exited"})
    assert record.load("state") == {"status": "exited"}
    record.remove()
    record.remove()
    assert not os.listdir(small)


@pytest.mark.parametrize("name", ["state", "spec"])
def test_a_record_that_can_not_be_read_is_not_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Its container may be alive: only a record without a state is one of a start that was never let go."""
    directory = tmp_path / "containers/c"
    directory.mkdir(parents=True)
    for file in ("state", "spec"):
        (directory / f"{file}.json").write_text("{}")
    (directory / f"{name}.json").write_text('{"id":"c","cgro')
    supervisor = Supervisor(str(tmp_path))
    supervisor.restore()
    supervisor.context.close()
    assert sorted(os.listdir(directory)) == ["spec.json", "state.json"]
    assert f"{directory} can not be read" in capsys.readouterr().err


def test_a_log_line_is_whole_or_not_there(small: Path, tmp_path: Path) -> None:
    """What a full disk took of a batch is cut off again: the next line begins a line."""
    os.mkfifo(tmp_path / "out")
    log = logs.Log(str(small / "log"), str(tmp_path / "journal"))
    peek = logs.Peek()
    stream = logs.FifoStream(str(tmp_path / "out"), "stdout", log, peek)
    writer = os.open(tmp_path / "out", os.O_RDWR)
    lines: list[Any] = [b"first\n", b"x" * 15_000 + b"\n", b"y" * 15_000 + b"\n", b"last\n"]
    for line in lines:
        os.write(writer, line)
        assert stream.pump() is None
    assert log.lost == 15_001
    found = [json.loads(line)["log"].encode() for line in (small / "log").read_text().splitlines()]
    assert found == [lines[0], lines[1], lines[3]]
    stream.close()
    log.close()
    peek.close()
    os.close(writer)
