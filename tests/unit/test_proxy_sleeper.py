"""The sleeping program: its bytes are its source, assembled."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pynet.proxy.standalone import sleeper

SOURCE = Path(__file__).parents[2] / "proxy/standalone/sleeper.s"


@pytest.mark.skipif(
    not (shutil.which("as") and shutil.which("objcopy")), reason="binutils assemble the source; they are not installed"
)
def test_the_bytes_are_the_source_assembled(tmp_path: Path) -> None:
    program = sleeper.program("x86_64")
    assert program is not None
    subprocess.run(["as", "--64", "-o", tmp_path / "sleeper.o", SOURCE], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "sleeper.o", tmp_path / "code"], check=True)
    code = (tmp_path / "code").read_bytes()
    headers = 64 + 2 * 56  # elf(5): the header and two program headers
    assert program[headers:] == code
    assert len(code) == 132


def test_the_source_says_the_descriptors_that_it_is_given() -> None:
    source = SOURCE.read_text()
    numbers = {"LISTENER": sleeper.LISTEN_FD, "CONTROL": sleeper.CONTROL_FD, "TURN": sleeper.TURN_FD}
    for name, number in numbers.items():
        assert f".set    {name}, {number} " in source


def test_other_machines_have_no_program() -> None:
    assert sleeper.program("aarch64") is None
