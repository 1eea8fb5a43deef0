"""What a container says and hears: its log, its input, its terminal, and those of processes that join it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.netlib.errors import InvalidArgument, NotFound
from pynet.runtime.client import StartFailed, SupervisorClient
from pynet.runtime.spec import ContainerSpec

from support.runtime import BOUND, NO_MAP, Lab, command, exec_output, needs_root, read_all, waiting

# -- output, input, terminals ------------------------------------------------------------------------------------------


def test_the_log_is_dockers_json_file(lab: Lab) -> None:
    before = time.time()
    spec = lab.spec("sh", "-c", "echo out; echo err >&2; printf part")
    lab.client.start(spec)
    lab.finish(spec)
    records = lab.records(spec)
    assert sorted((record["stream"], record["log"]) for record in records) == [
        ("stderr", "err\n"), ("stdout", "out\n"), ("stdout", "part"),
    ]  # fmt: skip
    for record in records:
        assert sorted(record) == ["log", "stream", "time"]
        when = time.strptime(record["time"][:19], "%Y-%m-%dT%H:%M:%S")
        assert len(record["time"]) == 30 and record["time"].endswith("Z")
        assert abs(time.mktime(when) - time.timezone - before) < 60


def test_long_lines_and_any_byte_survive(lab: Lab) -> None:
    script = "(head -c 40000 /dev/zero | tr '\\0' x; echo; printf '\\377\\000\\303\\251\\n') > /tmp/all; cat /tmp/all"
    spec = lab.spec(
        "sh", "-c", script
    )  # in one write: the beginning of a line that waits for its end is logged by itself
    lab.client.start(spec)
    lab.finish(spec)
    records = lab.records(spec)
    assert [len(record["log"]) for record in records[:3]] == [16384, 16384, 7233]
    assert records[3]["log"].encode("utf-8", "surrogateescape") == b"\xff\x00\xc3\xa9\n"


def test_much_output_is_complete_and_in_order(lab: Lab) -> None:
    spec = lab.spec("seq", "1", "40000")
    lab.client.start(spec)
    assert lab.finish(spec).out == "".join(f"{number}\n" for number in range(1, 40001))


def test_a_prompt_is_logged_while_the_program_waits(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "printf 'name? '; read x < /control/go; echo hello $x")
    control = lab.control(spec)
    lab.client.start(spec)
    log = Path(spec["log"])
    watch = subprocess.Popen(["tail", "-c", "+1", "-f", log], stdout=subprocess.PIPE)
    assert watch.stdout is not None
    assert b'"name? "' in watch.stdout.readline()
    watch.kill()
    watch.wait()
    watch.stdout.close()
    control.say("you\n")
    assert lab.finish(spec).out == "name? hello you\n"
    control.close()


@pytest.mark.parametrize("once", [True, False])
def test_standard_input(lab: Lab, once: bool) -> None:
    spec = lab.spec("cat" if once else "head", *([] if once else ["-n", "1"]), open_stdin=True, stdin_once=once)
    lab.client.start(spec)
    (stdin,) = lab.client.attach(spec["id"])
    os.write(stdin, b"typed\n")
    os.close(stdin)
    assert lab.finish(spec).out == "typed\n"


def test_without_open_stdin_there_is_nothing_to_attach(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "cat; read x < /control/go")
    control = lab.control(spec)
    lab.client.start(spec)
    assert lab.client.attach(spec["id"]) == []
    control.say("\n")
    lab.finish(spec)
    control.close()


@pytest.mark.skipif(not NO_MAP, reason="every uid is mapped here")
def test_a_user_that_is_not_mapped_is_named(lab: Lab) -> None:
    with pytest.raises(StartFailed, match="user 1000:1001 is not mapped in this user namespace"):
        lab.run("true", user="web")


def test_a_subscriber_that_fails_does_not_silence_the_others(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    seen = threading.Event()

    def fails(_: object) -> None:
        seen.set()
        raise RuntimeError("subscriber's bug")

    client = SupervisorClient(lab.run_directory / "supervisor.sock")
    client.subscribe(fails)
    assert lab.run("true").code == 0
    assert seen.wait(BOUND)
    client.close()
    assert "subscriber's bug" in caplog.text


def test_a_terminal(lab: Lab) -> None:
    spec = lab.spec(
        "sh", "-c", "tty; test -c /dev/console && echo console; echo $TERM; read x; stty size; echo got $x", tty=True
    )
    lab.client.start(spec)
    lab.client.resize(spec["id"], 33, 111)
    (master,) = lab.client.attach(spec["id"])
    os.write(master, b"hello\n")
    os.close(master)
    result = lab.finish(spec)
    assert result.err == ""
    lines = [line for line in result.out.replace("\r", "").split("\n") if line and line != "hello"]
    assert lines == ["/dev/pts/0", "console", "xterm", "33 111", "got hello"]


# -- exec ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sleeper(lab: Lab) -> Iterator[ContainerSpec]:
    """A container for processes to join."""
    with waiting(lab, env=["OF=container"]) as spec:
        yield spec


def test_exec_joins_all_namespaces(lab: Lab, sleeper: ContainerSpec) -> None:
    script = "hostname; cat /proc/1/comm; echo $OF $MORE; pwd; echo err >&2; cat; exit 6"
    process = command("sh", "-c", script, env=["MORE=1"], cwd="/etc", stdin=True)
    started = lab.client.exec(sleeper["id"], process, "x1")
    stdin, stdout, stderr = started.fds
    assert started.pid in lab.client.processes(sleeper["id"])
    os.write(stdin, b"in\n")
    os.close(stdin)
    assert read_all(stdout).splitlines() == ["box", "sh", "container 1", "/etc", "in"]
    assert read_all(stderr) == "err\n"
    assert lab.wait("exec-exited", sleeper["id"], lambda e: e["exec_id"] == "x1")["exit_code"] == 6


def test_exec_has_the_containers_limits(lab: Lab, sleeper: ContainerSpec) -> None:
    _, text = exec_output(lab, sleeper, command("cat", "/proc/self/status"), "x2")
    found = {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    assert int(found["CapEff"], 16) | 1 << 27 == 0xA80425FB
    assert found["Seccomp"] == "2"
    _, text = exec_output(lab, sleeper, command("cat", "/proc/self/status", privileged=True), "x3")
    assert "Seccomp:\t0" in text
    _, text = exec_output(lab, sleeper, command("sh", "-c", "cd /proc/self/fd; echo *"), "x4")
    assert text.strip() in ("0 1 2", "0 1 2 3")


def test_exec_in_a_terminal(lab: Lab, sleeper: ContainerSpec) -> None:
    process = command("sh", "-c", "read x; tty; stty size", tty=True)
    started = lab.client.exec(sleeper["id"], process, "x5")
    lab.client.resize(sleeper["id"], 20, 70, exec_id="x5")
    with pytest.raises(InvalidArgument, match="invalid size of a terminal"):
        lab.client.resize(sleeper["id"], 1 << 16, 70, exec_id="x5")
    os.write(started.fds[0], b"\n")
    lines = read_all(started.fds[0]).replace("\r", "").split()
    assert lines == ["/dev/pts/0", "20", "70"]


def test_a_terminal_has_its_size_before_the_program_begins(lab: Lab, sleeper: ContainerSpec) -> None:
    """A resize that followed the start came too late for a fast program, and its NotFound took the output's place."""
    for number in range(20):
        started = lab.client.exec(sleeper["id"], command("stty", "size", tty=True, size=(31, 90)), f"w{number}")
        assert read_all(started.master).split() == ["31", "90"]
    with pytest.raises(InvalidArgument, match="invalid size of a terminal"):
        lab.client.exec(sleeper["id"], command("true", tty=True, size=(31, 1 << 16)), "w")


@needs_root
def test_exec_as_another_user(lab: Lab, sleeper: ContainerSpec) -> None:
    _, text = exec_output(lab, sleeper, command("id", "-u", user="web"), "x6")
    assert text == "1000\n"


@pytest.mark.parametrize(("args", "code"), [(["nope"], 127), (["/etc/passwd"], 126), ([], 125)])
def test_exec_of_what_can_not_be_executed(lab: Lab, sleeper: ContainerSpec, args: list[str], code: int) -> None:
    with pytest.raises(StartFailed) as caught:
        lab.client.exec(sleeper["id"], command(*args), "x7")
    assert caught.value.exit_code == code


def test_exec_ends_with_its_container(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read x < /control/go")
    control = lab.control(spec)
    lab.client.start(spec)
    started = lab.client.exec(spec["id"], command("sleep", "1000"), "y1")
    control.say("\n")
    assert lab.finish(spec).code == 0
    assert lab.wait("exec-exited", spec["id"])["exit_code"] == 137
    for fd in started.fds:
        os.close(fd)
    with pytest.raises(NotFound):
        lab.client.exec(spec["id"], command("true"), "y2")
    control.close()
