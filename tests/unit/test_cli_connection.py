"""What a command says when the engine closes its connection: never that all went well when it did not."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.scripted import Answer, ScriptedEngine
from support.waiting import PATIENCE

PYNET = [sys.executable, "-I", "-m", "pynet"]


def pynet(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYNET, *words], capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ScriptedEngine]]:
    """Starts a scripted engine and points pynet at it."""
    with_context: list[ScriptedEngine] = []

    def start(script: Callable[[str], Answer]) -> ScriptedEngine:
        path = tmp_path / "s"
        monkeypatch.setenv("PYNET_HOST", f"unix://{path}")
        with_context.append(ScriptedEngine(path, script).__enter__())
        return with_context[0]

    yield start
    for one in with_context:
        one.close()


Start = Callable[[Callable[[str], Answer]], ScriptedEngine]


@pytest.mark.parametrize("words", [["stop", "a", "b"], ["start", "a", "b"], ["rm", "a", "b"], ["pause", "a", "b"]])
def test_a_connection_closed_between_two_requests_is_opened_again(words: list[str], engine: Start) -> None:
    server = engine(lambda request: Answer(status=204, then="close"))
    done = pynet(*words)
    assert done.returncode == 0
    assert done.stdout == "a\nb\n"
    assert len(server.requests) == 2
    assert {request.split("/")[2] for request in server.requests} == {"a", "b"}


def test_an_idle_connection_that_was_closed_is_noticed_before_it_is_used(engine: Start) -> None:
    from pynet.cli.client import Client
    from pynet.cli.settings import Settings

    server = engine(lambda request: Answer({"n": 1}))
    client = Client(Settings.resolve({}))
    assert client.get("/one") == {"n": 1}
    assert client.get("/two") == {"n": 1}
    assert server.connections == 1
    server.close_idle(1)
    assert client.post("/three") == {"n": 1}
    assert server.connections == 2
    assert server.requests == ["GET /one", "GET /two", "POST /three"]
    client.close()


@pytest.mark.parametrize("then", ["unanswered", "cut"])
def test_a_request_that_may_have_been_carried_out_is_not_repeated(then: str, engine: Start) -> None:
    answers = {
        "POST /containers/a/start": Answer(status=204),
        "POST /containers/b/start": Answer({"x": "y"}, then=then),
    }
    server = engine(answers.__getitem__)
    done = pynet("start", "a", "b")
    assert done.returncode == 1
    assert done.stdout == "a\n"
    assert done.stderr.startswith("pynet: the engine closed the connection")
    assert server.requests == list(answers)


def test_a_question_is_asked_again(engine: Start) -> None:
    from pynet.cli.client import Client
    from pynet.cli.settings import Settings

    answers = iter([Answer(1), Answer(then="unanswered"), Answer(2)])
    server = engine(lambda request: next(answers))
    client = Client(Settings.resolve({}))
    assert (client.get("/x"), client.get("/x")) == (1, 2)
    assert len(server.requests) == 3
    client.close()


@pytest.mark.parametrize("then", ["unanswered", "cut"])
def test_a_listing_without_its_answer_fails(then: str, engine: Start) -> None:
    engine(lambda request: Answer([{"Id": "a" * 64}], then=then))
    done = pynet("ps")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("pynet: the engine closed the connection")


def test_several_are_asked_for_at_once_and_shown_in_order(engine: Start) -> None:
    """None is answered before all have come; the last that came is answered first."""
    came = threading.Barrier(3, timeout=PATIENCE)
    order = {name: threading.Event() for name in "abcd"}
    order["d"].set()

    def script(request: str) -> Answer:
        name = request.split("/")[2]
        came.wait()
        assert order[chr(ord(name) + 1)].wait(PATIENCE)
        order[name].set()
        return Answer({"message": "no"}, status=409) if name == "b" else Answer(status=204)

    engine(script)
    done = pynet("stop", "a", "b", "c")
    assert (done.returncode, done.stdout) == (1, "a\nc\n")
    assert done.stderr == "pynet: Error response from daemon: no\n"


def test_no_more_are_asked_for_at_once_than_descriptors_allow(engine: Start) -> None:
    engine(lambda request: Answer(status=204))
    names = [f"c{number}" for number in range(100)]
    done = shell('ulimit -n 80; "$0" "$@"', "stop", *names)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, names, "")


@pytest.mark.parametrize(("status", "code"), [(404, 0), (409, 1), (500, 1)])
def test_force_forgives_what_is_not_there_and_nothing_else(status: int, code: int, engine: Start) -> None:
    engine(lambda request: Answer({"message": "no"}, status=status))
    assert pynet("rm", "-f", "a").returncode == code
    assert pynet("rm", "a").returncode == 1


def test_a_container_that_could_not_be_made_leaves_no_cidfile(engine: Start, tmp_path: Path) -> None:
    engine(lambda request: Answer({"message": "no"}, status=500))
    assert pynet("create", "--cidfile", str(tmp_path / "id"), "busybox").returncode == 125
    assert not (tmp_path / "id").exists()


def test_run_tells_what_the_engine_says_of_the_end(engine: Start) -> None:
    engine(run_script(lambda sock: None, Answer({"StatusCode": 0, "Error": {"Message": "lost sight of it"}})))
    done = pynet("run", "busybox")
    assert (done.returncode, done.stderr) == (125, "pynet: Error response from daemon: lost sight of it\n")


def run_script(stream: Callable[[socket.socket], None], waited: Answer) -> Callable[[str], Answer]:
    """What ``pynet run`` asks for, with this on the stream and that as the answer to its waiting."""

    def script(request: str) -> Answer:
        if request.endswith("/attach"):
            return Answer(stream=stream)
        if request.endswith("/wait"):
            return waited
        if request.endswith("/create"):
            return Answer({"Id": "c1"}, status=201)
        return Answer(status=204)

    return script


def test_run_fails_when_the_engine_goes_before_it_told_the_exit_code(engine: Start) -> None:
    def stream(sock: socket.socket) -> None:
        sock.sendall(b"\1\0\0\0\0\0\0\3hi\n")

    engine(run_script(stream, Answer({"StatusCode": 0}, then="cut")))
    done = pynet("run", "busybox")
    assert done.returncode == 125
    assert done.stdout == "hi\n"
    assert "closed the connection" in done.stderr


@pytest.mark.parametrize(
    ("words", "condition"),
    [("run busybox", "next-exit"), ("run --rm busybox", "removed"), ("attach --no-stdin c1", "not-running")],
)
def test_what_is_waited_for(words: str, condition: str, engine: Start) -> None:
    def script(request: str) -> Answer:
        if request == "GET /containers/c1/json":
            return Answer({"State": {"Running": True}, "Config": {"Tty": False}})
        return run_script(lambda sock: None, Answer({"StatusCode": 7}))(request)

    server = engine(script)
    assert pynet(*words.split()).returncode == 7
    assert server.queries[server.requests.index("POST /containers/c1/wait")] == f"condition={condition}"


def test_a_container_that_did_not_start_is_removed_where_it_was_to_be(engine: Start) -> None:
    def script(request: str) -> Answer:
        if request.endswith("/start"):
            return Answer({"message": "no"}, status=500)
        return run_script(lambda sock: None, Answer({"StatusCode": 0}))(request)

    server = engine(script)
    assert pynet("run", "--rm", "busybox").returncode == 125
    assert server.requests[-1] == "DELETE /containers/c1"
    assert pynet("run", "busybox").returncode == 125
    assert server.requests.count("DELETE /containers/c1") == 1


def test_a_template_outranks_quiet(engine: Start) -> None:
    engine(lambda request: Answer([{"Id": "a" * 64, "Names": ["/web"]}]))
    assert pynet("ps", "-q", "--format", "{{.Names}}").stdout == "web\n"
    assert pynet("ps", "-q").stdout == "a" * 12 + "\n"


def test_exec_fails_when_the_engine_does_not_know_how_it_ended(engine: Start) -> None:
    def script(request: str) -> Answer:
        if request.endswith("/start"):
            return Answer(stream=lambda sock: None)
        return Answer({"Id": "e1", "Running": True, "ExitCode": None})

    engine(script)
    done = pynet("exec", "c", "true")
    assert done.returncode == 1
    assert "the stream ended before the command did" in done.stderr


def signalled(
    engine: Start, numbers: list[int], *options: str
) -> tuple[subprocess.CompletedProcess[str], ScriptedEngine]:
    """``pynet run`` whose idle connection is closed before each of the signals that it gets."""
    asked = "POST /containers/c1/kill"
    running, ended = socket.socketpair()

    def stream(sock: socket.socket) -> None:
        sock.sendall(b"\1\0\0\0\0\0\0\5runs\n")
        ended.recv(1)

    server = engine(run_script(stream, Answer({"StatusCode": 42})))
    process = subprocess.Popen(
        [*PYNET, "run", *options, "busybox"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process, running, ended:
        assert process.stdout
        assert process.stderr
        first = process.stdout.readline()
        for count, number in enumerate(numbers, 1):
            server.close_idle(2 if count == 1 else 1)  # the one for requests; at first that of the answered wait too
            process.send_signal(number)
            if count < 3 and not options:
                server.wait_for(asked, count)
        stays = len(numbers) >= 3 or options  # the container goes on when we leave
        process.wait(PATIENCE) if stays else running.sendall(b"x")
        out, err = process.communicate(timeout=PATIENCE)
        if stays:
            running.sendall(b"x")
    return subprocess.CompletedProcess([], process.returncode, first + out, err), server


def test_ctrl_c_after_the_idle_time_reaches_the_container(engine: Start) -> None:
    done, server = signalled(engine, [signal.SIGINT])
    assert (done.returncode, done.stdout, done.stderr) == (42, "runs\n", "")
    assert server.requests.count("POST /containers/c1/kill") == 1


def test_ctrl_c_is_ours_when_signals_are_not_handed_on(engine: Start) -> None:
    done, server = signalled(engine, [signal.SIGINT], "--sig-proxy=false")
    assert done.returncode == 130
    assert "POST /containers/c1/kill" not in server.requests


def test_the_third_ctrl_c_leaves_a_container_that_does_not_care(engine: Start) -> None:
    done, server = signalled(engine, [signal.SIGINT, signal.SIGQUIT, signal.SIGINT])
    assert done.returncode == 1
    assert "got 3 SIGTERM/SIGINTs, forcefully exiting" in done.stderr
    assert server.requests.count("POST /containers/c1/kill") == 2


def test_after_a_detach_the_prompt_has_a_line_of_its_own(engine: Start) -> None:
    typed = bytearray()

    def stream(sock: socket.socket) -> None:
        sock.sendall(b"/ # ")
        while data := sock.recv(4096):
            typed.extend(data)

    server = engine(run_script(stream, Answer({"StatusCode": 0})))
    master, slave = pty.openpty()
    process = subprocess.Popen([*PYNET, "run", "-it", "busybox"], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    said = b""
    with process:
        while not said.endswith(b"/ # "):
            said += os.read(master, 4096)
        os.write(master, b"ls\x10\x11")
        while not said.endswith(b"\n"):
            said += os.read(master, 4096)
        assert process.wait(PATIENCE) == 0
    os.close(master)
    assert said == b"/ # \r\n"
    assert server.requests[-1] in ("POST /containers/c1/start", "POST /containers/c1/resize")
    server.close()
    assert typed == b"ls"


@pytest.mark.parametrize("words", [["run", "-it", "busybox"], ["exec", "-it", "c1", "sh"]], ids=" ".join)
def test_a_signal_that_the_terminal_did_not_make_ends_us_and_gives_the_terminal_back(
    words: list[str], engine: Start
) -> None:
    """With a terminal of its own the container gets no signals of ours: a shell shows who dies of 15 as 143."""

    def stream(sock: socket.socket) -> None:
        sock.sendall(b"/ # ")
        while sock.recv(4096):
            pass

    def script(request: str) -> Answer:
        if request.endswith("/exec"):
            return Answer({"Id": "e1"}, status=201)
        if request == "GET /exec/e1/json":
            return Answer({"ExitCode": 0})
        if request == "POST /exec/e1/start":
            return Answer(stream=stream)
        return run_script(stream, Answer({"StatusCode": 0}))(request)

    engine(script)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with subprocess.Popen([*PYNET, *words], stdin=slave, stdout=slave, stderr=slave) as process:
        said = b""
        while not said.endswith(b"/ # "):
            said += os.read(master, 4096)
        assert termios.tcgetattr(slave) != before
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


# -- what the user asked for ---------------------------------------------------------------------------------------


def port_script(request: str) -> Answer:
    rows: list[dict[str, object]] = [
        {"Container": name, "HostIp": "0.0.0.0", "HostPort": 8080, "Port": "80/tcp", "Proxy": {}}
        for name in ("web", "db")
    ]
    if request == "GET /containers/c1/json":
        return Answer({"Name": "/web"})
    if request == "GET /containers/c1/ports" or request == "GET /pynet/containers/c1/ports":
        return Answer(
            [{"HostIp": "0.0.0.0", "HostPort": "8080", "Port": "80/tcp", "Path": "nat", "Why": "", "Target": ""}]
        )
    if request == "GET /pynet/ports":
        return Answer(rows)
    return Answer({"message": "No such container: nobody"}, status=404)


def test_counters_of_one_container_are_asked_for_by_any_of_its_names(engine: Start) -> None:
    engine(port_script)
    done = pynet("port", "stats", "--format", "{{.Container}}", "c1")
    assert (done.returncode, done.stdout) == (0, "web\n")
    missing = pynet("port", "stats", "nobody")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "No such container: nobody" in missing.stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["rm", "-f", "a", ""], "container"),
        (["stop", " "], "container"),
        (["inspect", ""], "container"),
        (["network", "inspect", ""], "network"),
        (["network", "rm", "-f", ""], "network"),
        (["network", "connect", "", "a"], "network"),
        (["image", "inspect", ""], "image"),
        (["port", ""], "container"),
        (["logs", ""], "container"),
        (["capture", "-w", "/dev/null", ""], "container"),
    ],
)
def test_an_empty_name_is_nobodys_and_nothing_is_done(words: list[str], what: str, engine: Start) -> None:
    server = engine(lambda request: Answer([]))
    done = pynet(*words)
    assert (done.returncode, done.stdout.strip()) == (
        1 if "inspect" in words else 125,
        "[]" if "inspect" in words else "",
    )
    assert f"invalid {what} name or ID: value is empty" in done.stderr
    assert server.requests == []


def test_a_port_that_is_not_published_is_missed_in_every_form_of_the_list(engine: Start) -> None:
    engine(port_script)
    assert pynet("port", "-v", "c1", "80").returncode == 0
    for words in (["-v"], ["--json"], ["--format", "{{.Port}}"]):
        done = pynet("port", *words, "c1", "81")
        assert (done.returncode, done.stdout) == (1, ""), words
        assert "no public port '81/tcp' published for c1" in done.stderr


def test_control_d_is_no_to_a_question(engine: Start) -> None:
    server = engine(lambda request: Answer({}))
    master, slave = pty.openpty()
    with subprocess.Popen([*PYNET, "network", "prune"], stdin=slave, stdout=slave, stderr=slave) as process:
        said = b""
        while b"[y/N] " not in said:
            said += os.read(master, 4096)
        os.write(master, b"\x04")
        assert process.wait(PATIENCE) == 1
    while not said.endswith(b"[y/N] \r\n"):
        said += os.read(master, 4096)
    os.close(slave)
    os.close(master)
    assert b"Traceback" not in said
    assert server.requests == []


# -- our own output -----------------------------------------------------------------------------------------------


def shell(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", script, *PYNET, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [["--version"], ["--help"], ["ps"], ["ps", "--help"], ["completion", "bash"], ["__complete", "bash", ""],
     ["network", "stats"], ["port", "stats"], ["port", "-v", "a"], ["network", "help"]],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize(
    ("where", "why"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
    ids=["full", "closed"],
)
def test_output_that_can_not_be_written_is_one_error(words: list[str], where: str, why: str, engine: Start) -> None:
    engine(lambda request: Answer([]))
    done = shell(f'"$0" "$@" {where}', *words)
    assert done.returncode == 1
    assert done.stderr == f"pynet: cannot write the output: {why}\n  look at where stdout goes\n"


def test_run_without_a_stdout_does_not_take_the_engines_socket_for_it(engine: Start) -> None:
    def stream(sock: socket.socket) -> None:
        sock.sendall(b"\1\0\0\0\0\0\0\3hi\n")

    engine(run_script(stream, Answer({"StatusCode": 0})))
    done = shell('"$0" "$@" >&-', "run", "busybox")
    assert done.returncode == 1
    assert done.stderr == "pynet: cannot write the output: Bad file descriptor\n  look at where stdout goes\n"


def test_what_was_printed_comes_before_the_error_that_followed_it(engine: Start) -> None:
    engine(lambda request: Answer({"message": "no"}, status=500) if "/b/" in request else Answer(status=204))
    done = shell('"$0" "$@" 2>&1', "stop", "a", "b")
    assert [done.returncode, *done.stdout.splitlines()[:2]] == [1, "a", "pynet: Error response from daemon: no"]


def test_a_reader_that_left_ends_us_as_it_ends_cat(engine: Start) -> None:
    engine(lambda request: Answer([{"Id": "a" * 64}] * 3000))
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PYNET, "ps"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_that_left_does_not_hide_what_the_engine_said(engine: Start) -> None:
    """Its connection breaks while our stdout is a pipe in good order: an error."""
    engine(lambda request: Answer(then="unanswered"))
    done = subprocess.run([*PYNET, "stop", "a"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"closed the connection" in done.stderr
