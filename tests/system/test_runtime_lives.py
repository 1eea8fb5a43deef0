"""How containers end and start again: stopped, killed, by their restart policy, and over the death of the supervisor."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.errors import InvalidArgument
from pynet.runtime.client import StartFailed, SupervisorClient
from pynet.runtime.launch import spawn

from support.runtime import BOUND, Control, Lab, bind, command, exec_output

# -- stop, kill, restart -----------------------------------------------------------------------------------------------


def test_stop_asks_first(lab: Lab) -> None:
    spec = lab.spec(
        "sh", "-c", "trap 'echo bye; exit 3' USR1; echo up > /control/up; while :; do read x < /control/go; done"
    )
    spec["stop_signal"] = int(signal.SIGUSR1)
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    assert lab.client.stop(spec["id"])["exit_code"] == 3
    assert lab.finish(spec).out == "bye\n"
    control.close()


def test_stop_kills_what_does_not_listen(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "trap '' TERM; echo up > /control/up; while :; do read x < /control/go; done")
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    assert lab.client.stop(spec["id"], timeout=0)["exit_code"] == 137
    lab.finish(spec)
    control.close()


def test_a_time_out_that_never_ends_is_one(lab: Lab) -> None:
    """The longest that the API can say was too much for epoll_wait(2), and the end of the supervisor."""
    spec = lab.spec(
        "sh",
        "-c",
        "trap 'echo asked > /control/up' TERM; echo up > /control/up; while :; do read x < /control/go; done",
    )
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    with pytest.raises(InvalidArgument, match="timeout is missing or not a number"):
        lab.client.stop(spec["id"], timeout=1 << 63)
    states: list[dict[str, Any]] = []
    stopping = threading.Thread(target=lambda: states.append(lab.client.stop(spec["id"], timeout=(1 << 63) - 1)))
    stopping.start()
    assert control.heard() == "asked"
    lab.client.kill(spec["id"], 9)
    stopping.join(BOUND)
    assert [state["exit_code"] for state in states] == [137]
    assert lab.client.info()["pid"] == lab.pid
    lab.finish(spec)
    control.close()


def test_on_failure_restarts_until_the_maximum(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "echo try; exit 3", restart={"name": "on-failure", "max": 2})
    lab.client.start(spec)
    result = lab.finish(spec)
    assert (result.code, result.out, result.state["restarts"]) == (3, "try\n" * 3, 2)
    delays = [e["delay"] for e in lab.events if e["event"] == "restarting" and e["id"] == spec["id"]]
    assert delays == [0.1, 0.2]


def test_on_failure_leaves_a_success_alone(lab: Lab) -> None:
    assert lab.sh("exit 0", restart={"name": "on-failure", "max": 0}).state["restarts"] == 0


def test_always_restarts_until_it_is_stopped(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "echo up > /control/up; read x < /control/go", restart={"name": "always", "max": 0})
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    control.say("\n")
    lab.wait("started", spec["id"], lambda e: e["restarts"] == 1)
    control.heard()
    state = lab.client.stop(spec["id"], timeout=0)
    assert (state["status"], state["restarts"]) == ("exited", 1)
    lab.finish(spec)
    control.close()


def test_a_stop_by_no_signal_is_refused_and_changes_nothing(lab: Lab) -> None:
    """It was answered with an error, and the restart policy was off from then on."""
    spec = lab.spec("sleep", "1000", restart={"name": "always", "max": 0})
    lab.client.start(spec)
    with pytest.raises(InvalidArgument, match="invalid signal: 99"):
        lab.client.stop(spec["id"], signal=99)
    assert not lab.client.state(spec["id"])["stopped"]
    lab.client.stop(spec["id"], timeout=0)
    lab.client.remove(spec["id"])


def test_a_stop_ends_the_wait_for_a_restart(lab: Lab) -> None:
    spec = lab.spec("false", restart={"name": "always", "max": 0})
    lab.client.start(spec)
    lab.wait("restarting", spec["id"], lambda e: e["delay"] >= 0.4)
    assert lab.client.stop(spec["id"])["status"] == "exited"
    assert lab.finish(spec).code == 1


def test_a_container_that_is_not_held_is_forgotten(lab: Lab) -> None:
    spec = lab.spec("true", hold=False)
    lab.client.start(spec)
    lab.wait("removed", spec["id"])
    assert lab.client.list() == []


def test_a_container_that_is_forgotten_before_its_start_is_answered_leaves_no_descriptors(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event has overtaken the answer; what came with that must not be kept for good."""
    spec, keep = lab.spec("true", hold=False), lab.client._keep

    def keep_late(id: str, fds: list[int]) -> None:
        lab.wait("removed", id)
        keep(id, fds)

    monkeypatch.setattr(lab.client, "_keep", keep_late)
    lab.client.start(spec)
    assert lab.client._held == {}


# -- death of the supervisor ---------------------------------------------------------------------------------------------


def test_no_line_and_no_exit_code_is_lost_when_the_supervisor_is_killed(lab: Lab) -> None:
    script = "exec < /control/go; while read n; do test $n = end && exit 42; echo line $n; done"
    spec = lab.spec("sh", "-c", script)
    control = lab.control(spec)
    lab.client.start(spec)
    for first, last in ((1, 150), (151, 300), (301, 400)):
        control.say("".join(f"{number}\n" for number in range(first, last + 1)))
        if last < 400:
            lab.kill_supervisor()
            lab.pid = spawn(lab.run_directory)
    control.say("end\n")
    result = lab.finish(spec)
    assert result.code == 42
    assert result.lines == [f"line {number}" for number in range(1, 401)]
    control.close()


def ends_while_the_supervisor_is_away(lab: Lab, control: Control, pidfd: int) -> None:
    lab.kill_supervisor()
    control.say("\n")
    assert select.select([pidfd], [], [], BOUND)[0]
    os.close(pidfd)
    lab.pid = spawn(lab.run_directory)


def test_an_exit_while_the_supervisor_is_away(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read x < /control/go; echo last words; exit 42")
    control = lab.control(spec)
    pidfd = os.pidfd_open(lab.client.start(spec).pid)
    ends_while_the_supervisor_is_away(lab, control, pidfd)
    result = lab.finish(spec)
    assert (result.code, result.out) == (42, "last words\n")
    control.close()


def test_an_exit_after_a_restart_while_the_supervisor_is_away(lab: Lab) -> None:
    """The client held the pidfd of the run before: its exit code was told for this one's."""
    script = "test -e /control/ran && { read x < /control/go; exit 42; }; touch /control/ran; exit 3"
    spec = lab.spec("sh", "-c", script, restart={"name": "on-failure", "max": 1})
    control = lab.control(spec)
    lab.client.start(spec)
    pid = lab.wait("started", spec["id"], lambda event: event["restarts"] == 1)["pid"]
    pidfd = os.pidfd_open(pid)
    lab.kill_supervisor()
    control.say("\n")
    reaped = select.poll()
    reaped.register(pidfd, 0)  # HUP is always told (poll(2)), and is the reap: until then /proc has the exit code too
    assert reaped.poll(BOUND * 1000)
    os.close(pidfd)
    lab.pid = spawn(lab.run_directory)
    assert lab.finish(spec).code == 42
    control.close()


def test_a_daemon_that_was_started_again_holds_what_the_one_before_held(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read x < /control/go; echo last words; exit 43")
    control = lab.control(spec)
    pidfd = os.pidfd_open(lab.client.start(spec).pid)
    lab.client.close()
    lab.client = SupervisorClient(lab.run_directory / "supervisor.sock")
    lab.client.subscribe(lab.event)
    ends_while_the_supervisor_is_away(lab, control, pidfd)
    result = lab.finish(spec)
    assert (result.code, result.out) == (43, "last words\n")
    control.close()


def test_what_happens_while_nobody_is_subscribed_is_told_to_the_next(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read x < /control/go; exit 5")
    control = lab.control(spec)
    pidfd = os.pidfd_open(lab.client.start(spec).pid)
    lab.client.close()
    control.say("\n")
    assert select.select([pidfd], [], [], BOUND)[0]
    os.close(pidfd)
    lab.client = SupervisorClient(lab.run_directory / "supervisor.sock")
    lab.client.subscribe(lab.event)
    assert lab.finish(spec).code == 5
    control.close()


def test_a_new_supervisor_goes_on_with_everything(lab: Lab) -> None:
    spec = lab.spec(
        "sh", "-c", "echo up > /control/up; read x < /control/go; echo $x", restart={"name": "on-failure", "max": 1}
    )
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    started = lab.client.exec(spec["id"], command("sh", "-c", "read x; exit 9", stdin=True), "z1")
    lab.kill_supervisor()
    lab.pid = spawn(lab.run_directory)
    # joining, attaching, stopping work on a container that somebody else has started
    _, text = exec_output(lab, spec, command("hostname"), "z2")
    assert text == "box\n"
    os.write(started.fds[0], b"\n")
    assert lab.wait("exec-exited", spec["id"], lambda e: e["exec_id"] == "z1")["exit_code"] == 9
    for fd in started.fds:
        os.close(fd)
    assert lab.client.stop(spec["id"], timeout=0)["exit_code"] == 137
    assert lab.finish(spec).state["restarts"] == 0
    control.close()


def test_a_terminal_survives_the_supervisor(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "trap 'echo hung up' HUP; echo up > /control/up; read x; echo got $x", tty=True)
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    lab.kill_supervisor()
    lab.pid = spawn(lab.run_directory)
    back = threading.Event()
    lab.client.on_reconnect = back.set
    lab.client.list()  # waits for the connection
    assert back.wait(BOUND)
    lab.client.on_reconnect = None
    (master,) = lab.client.attach(spec["id"])
    os.write(master, b"hello\n")
    os.close(master)
    assert "got hello" in lab.finish(spec).out
    control.close()


def test_restarts_go_on_after_the_supervisor_died(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "echo try; exit 1", restart={"name": "on-failure", "max": 3})
    lab.client.start(spec)
    lab.wait("restarting", spec["id"], lambda e: e["delay"] >= 0.2)
    lab.kill_supervisor()
    lab.pid = spawn(lab.run_directory)
    result = lab.finish(spec)
    assert (result.out, result.state["restarts"]) == ("try\n" * 4, 3)


def test_no_descriptor_is_kept_of_what_has_ended(lab: Lab) -> None:
    lab.run("true")  # what is made once
    before = lab.open_descriptors()
    for _ in range(5):
        lab.run("true")
        lab.run("true", tty=True)
        with pytest.raises(StartFailed):
            lab.run("nope")
        with pytest.raises(StartFailed):
            lab.run("true", user="nobody-here", tty=True)
        with pytest.raises(StartFailed):
            lab.run("true", mounts=[bind(Path("/etc"), "/a"), bind(Path("/nowhere"), "/b")])
    assert lab.open_descriptors() == before


def test_a_start_says_that_it_was_let_go(lab: Lab) -> None:
    """By which the next supervisor tells a container that ran from one that never did (records.py)."""
    spec = lab.spec("sleep", "1000")
    lab.client.start(spec)
    assert Path(lab.run_directory, "containers", spec["id"], "begun").stat().st_size == 1
    lab.client.kill(spec["id"])
    lab.finish(spec)


def test_a_second_supervisor_gives_way(lab: Lab) -> None:
    assert spawn(lab.run_directory) == lab.pid


def test_the_daemon_is_started_again_when_it_dies(lab: Lab, tmp_path: Path) -> None:
    fifo = tmp_path / "up"
    os.mkfifo(fifo)
    up = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    daemon = subprocess.Popen(["sleep", "1000"])
    before = set(Path(f"/proc/{lab.pid}/task/{lab.pid}/children").read_text().split())  # a container of another test's
    lab.client.watch(daemon.pid, ["/bin/sh", "-c", f"echo up >> {fifo}; exec sleep 1000"])
    daemon.kill()
    daemon.wait()
    assert select.select([up], [], [], BOUND)[0]
    assert os.read(up, 100) == b"up\n"
    lab.client.watch(os.getpid(), [])
    children = set(Path(f"/proc/{lab.pid}/task/{lab.pid}/children").read_text().split()) - before
    assert len(children) == 1
    os.kill(int(children.pop()), signal.SIGKILL)
    os.close(up)
