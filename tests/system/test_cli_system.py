"""The pynet command against the real engine, in a playground that all tests of this module share.

``Inside`` is a shell that stays open in the playground: it gets one command line at a time and tells when it is done.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pynet.plugins.isolation import maps_every_uid

PYNET = [sys.executable, "-I", "-m", "pynet"]
DOCS = Path(__file__).parents[2] / "docs"
LIMIT = 20.0


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Inside:
    """A playground, and commands in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._shell = subprocess.Popen(
            [*PYNET, "playground", "--", "/bin/sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._number = 0

    def run(self, command: str, stdin: str = "") -> Result:
        """Run a line of sh; its exit code, stdout and stderr."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._number += 1
        base = self.directory / str(self._number)
        (base.with_suffix(".in")).write_text(stdin)
        self._shell.stdin.write(f"( {command}\n) <{base}.in >{base}.out 2>{base}.err; echo done $?\n")
        self._shell.stdin.flush()
        guard = threading.Timer(LIMIT, self._shell.kill)
        guard.start()
        answer = self._shell.stdout.readline()
        guard.cancel()
        assert answer.startswith("done "), f"{command}: the playground ended: {Path(f'{base}.err').read_text()}"
        return Result(int(answer.split()[1]), Path(f"{base}.out").read_text(), Path(f"{base}.err").read_text())

    def ok(self, command: str, stdin: str = "") -> str:
        """The output of a line of sh that must succeed."""
        result = self.run(command, stdin)
        assert result.code == 0, f"{command}: {result}"
        return result.out.strip()

    def close(self) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(LIMIT)
        for stream in (self._shell.stdout, self._shell.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    playground = Inside(tmp_path_factory.mktemp("inside"))
    try:
        playground.ok("pynet image bootstrap")
        yield playground
    finally:
        playground.close()


@pytest.fixture(autouse=True)
def nothing_left(inside: Inside) -> Iterator[None]:
    yield
    left = inside.ok("pynet ps -aq").split()
    if left:
        inside.ok(f"pynet rm -f {' '.join(left)}")
    assert not left, "the test left a container"


# -- run ----------------------------------------------------------------------------------------------------------


def test_output_goes_where_it_was_printed_and_the_exit_code_is_the_containers(inside: Inside) -> None:
    assert inside.run("pynet run --rm busybox sh -c 'echo out; echo err >&2; exit 42'") == (42, "out\n", "err\n")


def test_a_signal_that_ends_the_container_shows_in_the_exit_code(inside: Inside) -> None:
    assert inside.run("pynet run --rm --init busybox sh -c 'kill -KILL $$'").code == 137


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("pynet run --rm busybox nosuchcommand", 127, "executable file not found"),
        ("pynet run --rm busybox /etc", 126, "is a directory"),
        ("pynet run --rm nosuchimage true", 125, "No such image: nosuchimage:latest"),
        ("pynet run --rm -p 0:80 busybox true", 125, "invalid hostPort: 0"),
        ("pynet run --rm --network nosuch busybox true", 125, "nosuch not found"),
        ("pynet run --rm -w relative busybox true", 125, "relative"),
        ("pynet stop nosuch", 1, "No such container: nosuch"),
        ("pynet inspect nosuch", 1, "no such object: nosuch"),
        ("pynet inspect --type network nosuch", 1, "network nosuch not found"),
        ("pynet exec nosuch true", 1, "No such container: nosuch"),
        ("pynet network rm bridge", 1, "bridge"),
        ("pynet ps --format '{{.Nope}'", 125, "unclosed action"),
        ("pynet ps --filter odd=1", 1, "invalid filter"),
    ],
)
def test_errors_say_what_and_what_to_do(inside: Inside, command: str, code: int, message: str) -> None:
    result = inside.run(command)
    assert result.code == code
    assert message in result.err
    assert result.err.startswith("pynet: ")
    assert "Traceback" not in result.err


def test_stdin_reaches_the_container_and_its_end_too(inside: Inside) -> None:
    text = "".join(f"line {n}\n" for n in range(20000))
    assert inside.run("pynet run --rm -i busybox cat", text) == (0, text, "")
    assert inside.run("pynet run --rm busybox cat", "not sent").out == ""


def test_a_container_that_does_not_read_its_stdin_ends_all_the_same(inside: Inside) -> None:
    assert inside.run("pynet run --rm -i busybox echo done", "x" * 1_000_000).out == "done\n"


def test_the_environment_and_the_directory(inside: Inside) -> None:
    out = inside.ok("A=passed pynet run --rm -e A -e B='two words' -w /srv busybox sh -c 'echo $A-$B-$PWD'")
    assert out == "passed-two words-/srv"


def test_cidfile(inside: Inside) -> None:
    path = inside.directory / "cid"
    identifier = inside.ok(f"pynet create --cidfile {path} busybox true")
    assert path.read_text() == identifier
    assert inside.run(f"pynet create --cidfile {path} busybox true").code == 125
    inside.ok(f"pynet rm {identifier}")


def test_a_signal_to_the_command_is_handed_to_the_container(inside: Inside) -> None:
    script = 'trap "echo got it; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    out = inside.directory / "signal.out"
    os.mkfifo(out)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    try:
        inside.ok(f"( pynet run --rm busybox sh -c '{script}'; echo code $? ) > {out} 2>&1 & echo $! > {out}.pid; :")
        assert _read_until(reader, "ready") == "ready\n"
        # the subshell's child is the command
        inside.ok(f"kill -TERM $(cat /proc/$(cat {out}.pid)/task/*/children)")
        assert _read_until(reader, "code 9") == "got it\ncode 9\n"
    finally:
        os.close(reader)


def _read_until(fd: int, text: str, found: str = "") -> str:
    deadline = time.monotonic() + LIMIT
    while text not in found:
        left = deadline - time.monotonic()
        assert left > 0, f"{text!r} did not come; got {found!r}"
        if select.select([fd], [], [], left)[0]:
            data = os.read(fd, 65536)
            assert data, f"{text!r} did not come; got {found!r} and the end"
            found += data.decode()
    return found


# -- the life of a container --------------------------------------------------------------------------------------


def test_the_main_job_and_what_can_be_asked_about_it(inside: Inside) -> None:
    identifier = inside.ok("pynet run -d --name web -p 8080:80 -l a=b busybox httpd -f -p 80 -h /etc")
    assert re.fullmatch("[0-9a-f]{64}", identifier)
    assert inside.ok("pynet ps --format '{{.ID}} {{.Names}} {{.Image}} {{.State}} {{.Ports}} {{.Label \"a\"}}'") == (
        f"{identifier[:12]} web busybox running 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp b"
    )
    heading, row = inside.ok("pynet ps").splitlines()
    assert re.sub(" {2,}", "|", heading) == "CONTAINER ID|IMAGE|COMMAND|CREATED|STATUS|PORTS|NAMES"
    assert row.startswith(identifier[:12])
    assert inside.ok("pynet ps -q --no-trunc --filter label=a=b") == identifier
    assert inside.ok("pynet ps -q --filter label=a=c") == ""
    assert '"State":"running"' in inside.ok("pynet ps --json")
    assert inside.ok("pynet port web 80") == "0.0.0.0:8080\n[::]:8080"
    assert inside.ok("pynet port web") == "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080"
    assert inside.run("pynet port web 81").code == 1
    assert (
        inside.ok("pynet inspect -f '{{.Name}} {{.State.Running}} {{json .Config.Labels}}' web")
        == '/web true {"a":"b"}'
    )
    assert "httpd" in inside.ok("pynet top web")
    assert "web" in inside.ok("pynet stats --no-stream web")
    assert inside.ok("pynet rename web www && pynet exec www hostname") == identifier[:12]
    assert inside.run("pynet exec www sh -c 'exit 7'").code == 7
    assert inside.run("pynet exec www nosuchcommand").code == 127
    assert inside.ok("pynet exec -i www cat", "through exec") == "through exec"
    assert inside.ok("pynet exec -e A=1 -w /tmp www sh -c 'echo $A $PWD'") == "1 /tmp"
    result = inside.run("pynet run --rm -p 8080:80 busybox true")
    assert result.code == 125
    assert "port is already allocated" in result.err
    assert inside.ok("pynet stop -t 0 www; pynet ps -a --format '{{.State}}'") == "www\nexited"
    assert inside.ok("pynet start www; pynet restart -t 0 www; pynet kill www; pynet wait www") == "www\nwww\nwww\n137"
    assert inside.ok("pynet rm www") == "www"


def test_logs(inside: Inside) -> None:
    inside.ok("pynet run --name talk busybox sh -c 'for i in 1 2 3; do echo out $i; done; echo err >&2'")
    assert inside.run("pynet logs talk") == (0, "out 1\nout 2\nout 3\n", "err\n")
    assert inside.run("pynet logs --tail 2 talk 2>&1").out.splitlines()[-1] in ("err", "out 3")
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z out 1\n", inside.run("pynet logs -t talk").out)
    assert inside.ok("pynet start -a talk 2>/dev/null") == "out 1\nout 2\nout 3"
    inside.ok("pynet rm talk")


def test_logs_follow_to_the_end(inside: Inside) -> None:
    inside.ok("pynet run -d --name slow busybox sh -c 'read x; echo one'")
    inside.ok("pynet rm -f slow; pynet run -d --name slow busybox sh -c 'echo one; sleep 0.3; echo two'")
    assert inside.ok("pynet logs -f slow") == "one\ntwo"
    inside.ok("pynet rm -f slow")


def test_several_objects_fail_one_by_one(inside: Inside) -> None:
    inside.ok("pynet create --name aa busybox true")
    result = inside.run("pynet rm nosuch aa")
    assert (result.code, result.out) == (1, "aa\n")
    assert "No such container: nosuch" in result.err
    assert inside.run("pynet rm -f nosuch").code == 0


def test_pause(inside: Inside) -> None:
    inside.ok("pynet run -d --name pp busybox sleep 100")
    result = inside.run("pynet pause pp")
    if maps_every_uid():
        assert (result.code, result.out, result.err) == (0, "pp\n", "")
        assert inside.ok("pynet ps --format '{{.State}}'") == "paused"
        for command in ("pynet pause pp", "pynet exec pp true", "pynet attach --no-stdin pp"):
            again = inside.run(command)
            assert again.code == 1
            assert "paused" in again.err
        assert inside.ok("pynet unpause pp") == "pp"
    else:  # no cgroups in a user namespace
        assert result.code == 1
        assert "pausing needs a cgroup freezer" in result.err
    assert inside.ok("pynet ps --format '{{.State}}'") == "running"
    inside.ok("pynet rm -f pp")


@pytest.mark.parametrize(
    ("command", "code", "what", "hint"),
    [
        ("run nosuch:1", 125, "nosuch:1", "pynet image bootstrap"),
        ("run --rm busybox nosuch", 127, "executable file not found", "look for the command in the image"),
        ("run --rm busybox /etc/passwd", 126, "permission denied", "is it a program that this user may execute?"),
        ("create --name a busybox", 125, "Invalid container name", "two characters or more"),
        ("run --cap-add NOSUCH busybox", 125, "invalid capability", "capabilities(7)"),
        ("run -m 1m busybox", 125, "Minimum memory", "-m 6m"),
        ("run -v relative busybox", 125, "invalid volume specification", "absolute TARGET"),
        ("run --mount type=nfs,target=/x busybox", 125, "mount type unknown", "bind, volume and tmpfs are known"),
        ("run --mount type=bind,source=/nosuch/x,target=/x busybox", 125, "bind source path does not exist", "use -v"),
        ("run --rm --restart always busybox", 125, "with restart policy", "leave one of them out"),
        ("run --device fuse busybox", 125, "invalid device 'fuse'", "ls -l /dev"),
        ("run --device /dev/null:rx busybox", 125, "invalid device mode: rx", "r, w and m"),
        ("run --security-opt seccomp=/x busybox", 125, "opening seccomp profile (/x) failed", "name a JSON file"),
        ("run --security-opt nosuch busybox", 125, "invalid --security-opt", "no-new-privileges"),
        ("run --rm --network container:nosuch busybox", 125, "No such container: nosuch", "pynet ps"),
        ("run --log-driver syslog busybox", 125, "no log driver named 'syslog'", "json-file"),
        ("stop nosuch", 1, "No such container: nosuch", "pynet ps -a"),
        ("kill -s NOSUCH hinted", 1, "invalid signal: NOSUCH", "signal(7)"),
        ("exec hinted true", 1, "is not running", "pynet start"),
        ("ps --filter status=runing", 1, "invalid filter 'status=runing'", "one of created, dead, exited"),
        ("ps --filter nosuch=x", 1, "invalid filter 'nosuch'", "known here: ancestor, before, exited"),
        ("network ls --filter nosuch=x", 1, "invalid filter 'nosuch'", "known here: dangling, driver, id"),
        ("images --filter nosuch=x", 1, "invalid filter 'nosuch'", "known here: before, dangling"),
        ("network rm bridge", 1, "bridge is a pre-defined network", "always there"),
    ],
)
def test_what_the_engine_refuses_comes_with_what_to_do(
    command: str, code: int, what: str, hint: str, inside: Inside
) -> None:
    inside.ok("pynet inspect hinted >/dev/null 2>&1 || pynet create --name hinted busybox true")
    result = inside.run(f"pynet {command}")
    inside.ok("pynet rm hinted")
    assert result.code == code
    first, second = result.err.rstrip("\n").split("\n")
    assert what in first
    assert hint in second


def test_networks(inside: Inside) -> None:
    identifier = inside.ok("pynet network create --subnet 10.20.0.0/24 --gateway 10.20.0.1 --label x=y back")
    assert inside.ok("pynet network ls -q --no-trunc --filter name=back") == identifier
    assert (
        inside.ok("pynet network inspect -f '{{(index .IPAM.Config 0).Subnet}} {{.Labels.x}}' back") == "10.20.0.0/24 y"
    )
    inside.ok("pynet run -d --name one --network back --ip 10.20.0.9 busybox sleep 100")
    inside.ok("pynet run -d --name two busybox sleep 100")
    assert inside.run("pynet exec two ping -c 1 -W 1 10.20.0.9").code != 0
    inside.ok("pynet network connect --ip 10.20.0.10 back two")
    inside.ok("pynet exec two ping -c 1 -W 5 10.20.0.9")
    names = inside.ok("pynet network inspect -f '{{range .Containers}}{{.Name}} {{.IPv4Address}};{{end}}' back")
    assert sorted(names.strip(";").split(";")) == ["one 10.20.0.9/24", "two 10.20.0.10/24"]
    assert "has active endpoints" in inside.run("pynet network rm back").err
    inside.ok("pynet network disconnect back two")
    assert inside.ok("pynet network inspect -f '{{range .Containers}}{{.Name}};{{end}}' back") == "one;"
    assert inside.run("pynet exec two ping -c 1 -W 1 10.20.0.9").code != 0
    inside.ok("pynet rm -f one two && pynet network rm back")


def test_images(inside: Inside) -> None:
    archive = inside.directory / "busybox.tar"
    identifier = inside.ok("pynet images -q --no-trunc busybox")
    inside.ok(f"pynet tag busybox other:1 && pynet save -o {archive} other:1")
    assert "Untagged: other:1" in inside.ok("pynet rmi other:1")
    assert "other:1" in inside.ok(f"pynet load < {archive}")
    assert inside.ok("pynet image inspect -f '{{.Id}}' other:1") == identifier
    inside.ok("pynet rmi other:1")
    inside.ok(
        f"mkdir -p {archive}.d/bin && cp $(command -v busybox) {archive}.d/bin/sh && tar -C {archive}.d -cf {archive}.x ."
    )
    inside.ok(f'pynet import -c \'CMD ["/bin/sh","-c","echo imported"]\' {archive}.x mine:1')
    assert inside.ok("pynet run --rm mine:1") == "imported"
    inside.ok("pynet rmi mine:1")
    assert inside.run("pynet load", "this is no archive").code == 1


def test_events(inside: Inside) -> None:
    inside.ok("pynet run --rm --name eventful busybox true")
    out = inside.ok("pynet events --since 1m --until 0s --filter container=eventful --format '{{.Type}} {{.Action}}'")
    assert "container create\ncontainer attach\n" in out or "container create\n" in out
    assert "container start" in out
    assert "container die" in out


def test_prune(inside: Inside) -> None:
    inside.ok("pynet create --name old busybox true && pynet network create unused")
    assert inside.run("pynet system prune", "").code == 125
    out = inside.ok("pynet system prune -f")
    assert re.search(r"Deleted Networks:\n(.*\n)*unused", out)
    assert "Deleted Containers:" in out


def test_version_and_info(inside: Inside) -> None:
    assert inside.ok("pynet version --format '{{.Server.ApiVersion}}'") == "1.51"
    assert inside.ok("pynet info --format '{{.Driver}}'") == "overlay2"
    assert "Firewall Backend:" in inside.ok("pynet info")
    assert inside.ok("pynet --host $DOCKER_HOST ps -q") == ""


# -- the engine ---------------------------------------------------------------------------------------------------


def test_the_engine_stops_and_is_started_on_demand(inside: Inside) -> None:
    first = inside.ok("cat $PYNET_RUN/pynetd.pid")
    inside.ok("pynet run -d --name stays busybox sleep 100")
    assert "go on" in inside.ok("pynet daemon stop")
    assert inside.run("pynet daemon status").code == 3
    assert inside.ok("pynet ps --format '{{.Names}} {{.State}}'") == "stays running"
    assert inside.ok("cat $PYNET_RUN/pynetd.pid") != first
    assert inside.run("pynet daemon status").code == 0
    inside.ok("pynet rm -f stays")


def test_many_first_commands_start_one_engine(inside: Inside) -> None:
    inside.ok("pynet daemon stop")
    inside.ok("for i in 1 2 3 4; do pynet ps -q & done; wait")
    assert inside.ok("grep -c serving $PYNET_RUN/pynetd.log >/dev/null; pynet daemon start")
    running = inside.ok(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -c [p]ynet.engine.daemon"
    )
    assert running == "1"


def test_an_engine_that_can_not_start_says_why(inside: Inside) -> None:
    result = inside.run("pynet --root /proc/nowhere --run $PYNET_RUN/other ps")
    assert result.code == 1
    assert "the engine did not start: " in result.err
    assert "/proc/nowhere" in result.err
    assert "pynetd.log" in result.err
    assert "Traceback" not in result.err
    result = inside.run("pynet --run /proc/nowhere ps")
    assert result.code == 1
    assert "can not be started" in result.err


def test_a_named_socket_is_never_started(inside: Inside) -> None:
    result = inside.run("PYNET_HOST=unix://$PYNET_RUN/nobody.sock pynet ps")
    assert result.code == 1
    assert "cannot connect to the engine" in result.err
    assert inside.run("test -e $PYNET_RUN/nobody.sock").code == 1


# -- terminals ----------------------------------------------------------------------------------------------------


class Terminal:
    """A pynet command in the playground with a pseudo terminal of its own, which this test plays the user of."""

    def __init__(self, inside: Inside, command: str) -> None:
        self.master, slave = pty.openpty()
        place = inside.ok("echo $PYNET_RUN; readlink /proc/self/ns/pid >/dev/null; echo $PPID")
        run = place.splitlines()[0]
        # the socket lies on a tmpfs of the playground: reach it through the shell's own view of the mounts
        shell = inside._shell.pid
        init = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0]
        environ = {**os.environ, "TERM": "dumb"}
        path = f"/proc/{init}/root{run}/pynet.sock"
        self.process = subprocess.Popen(
            [*PYNET, "--host", f"unix://{path}", *command.split()],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def expect(self, text: str) -> None:
        _, _, after = _read_until(self.master, text, self.seen).partition(text)
        self.seen = after

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # the session of the command has no controlling terminal, so the kernel does not tell it
        self.process.send_signal(signal.SIGWINCH)

    def end(self) -> int:
        try:
            code = self.process.wait(LIMIT)
        finally:
            self.process.kill()
        os.close(self.master)
        return code


def test_a_terminal(inside: Inside) -> None:
    terminal = Terminal(inside, "run -it --rm --name tty busybox sh")
    terminal.expect("# ")
    terminal.type(b"tty; echo a=$((40 + 2))\r")
    terminal.expect("/dev/pts/0")
    terminal.expect("a=42")
    terminal.resize(33, 77)
    terminal.type(b"until stty size | grep -q 77; do :; done; stty size\r")
    terminal.expect("33 77")
    terminal.type(b"while read x; do echo got $x; done\r")
    terminal.type(b"one\r")
    terminal.expect("got one")  # the loop runs now: the control character is its end
    terminal.type(b"\x03")
    terminal.expect("# ")
    terminal.type(b"exit 5\r")
    assert terminal.end() == 5


def test_detaching_and_coming_back(inside: Inside) -> None:
    terminal = Terminal(inside, "run -it --name tty busybox sh")
    terminal.expect("# ")
    terminal.type(b"x=kept\r\x10\x11")
    assert terminal.end() == 0
    assert inside.ok("pynet ps --format '{{.Names}} {{.State}}'") == "tty running"
    terminal = Terminal(inside, "attach --detach-keys ctrl-a tty")
    terminal.type(b"echo $x\r")
    terminal.expect("kept")
    terminal.type(b"\x01")
    assert terminal.end() == 0
    terminal = Terminal(inside, "exec -it tty sh -c tty")
    terminal.expect("/dev/pts/1")
    assert terminal.end() == 0
    inside.ok("pynet rm -f tty")


def test_a_terminal_is_demanded_where_it_is_needed(inside: Inside) -> None:
    result = inside.run("pynet run --rm -it busybox sh")
    assert (result.code, "the input device is not a TTY" in result.err) == (125, True)


# -- documentation ------------------------------------------------------------------------------------------------


def test_the_getting_started_guide(inside: Inside) -> None:
    """Every command of the guide, in order, in one shell that stops at the first that fails."""
    text = (DOCS / "getting-started.md").read_text()
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert commands.count("pynet ") > 25
    result = inside.run(f"set -e\n{commands}")
    assert result.code == 0, result
    for expected in ("hello\n", "HELLO\n", "hello, world, from /tmp\n", "a page of mine\n"):
        assert expected in result.out


def test_an_engine_that_another_process_starts_is_waited_for(inside: Inside) -> None:
    """After kill -9 the supervisor and the forwarder start pynetd too; the command that comes last must not fail."""
    inside.run("pynet daemon start")
    for _ in range(3):
        done = inside.run(
            'pid=$(cat "$PYNET_RUN/pynetd.pid"); kill -9 $pid; while kill -0 $pid 2> /dev/null; do :; done;'
            " pynet ps & pynet ps & pynet ps; code=$?; wait; exit $code"
        )
        assert "did not start" not in done.err
        assert done.code == 0, done


def test_a_state_directory_from_a_newer_version_is_refused_by_the_command_that_starts_the_engine(
    inside: Inside,
) -> None:
    newer = (
        'export PYNET_ROOT="$PYNET_ROOT/newer" PYNET_RUN="$PYNET_RUN/n"; unset PYNET_HOST DOCKER_HOST;'
        ' mkdir -p "$PYNET_ROOT" "$PYNET_RUN"'
    )
    made = inside.run(
        f"{newer}; {sys.executable} -c 'import os, sqlite3;"
        ' sqlite3.connect(os.environ["PYNET_ROOT"] + "/pynet.db").execute("PRAGMA user_version=99")\''
    )
    assert made.code == 0, made
    done = inside.run(f"{newer}; pynet ps")
    assert done.code == 1
    what, hint = done.err.splitlines()
    assert "has schema version 99" in what
    assert hint.strip() == "run the newer pynet, or choose another --root"
