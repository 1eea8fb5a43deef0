"""Docker's own, unmodified client against pynetd: what people type every day."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support.engine import Bed, Daemon
from support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="the docker client is not installed")

ONE_UID = Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
PAGE = "mkdir -p /www; echo a page > /www/index.html; exec httpd -f -p 80 -h /www"


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.docker("inspect", name).stdout)[0]
    return found


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        return str(response.read().decode())


def serve(daemon: Daemon, *options: str) -> str:
    id = daemon.docker("run", "-d", *options, "busybox", "sh", "-c", PAGE).stdout.strip()

    def listening() -> bool:
        return ":80" in daemon.docker("exec", id, "netstat", "-ltn").stdout

    daemon.eventually(listening)
    return id


def test_version_and_info(daemon: Daemon) -> None:
    assert "pynet" in daemon.docker("version").stdout
    assert "Storage Driver: overlay2" in daemon.docker("info").stdout


def test_run_detached_with_a_published_port(daemon: Daemon) -> None:
    id = serve(daemon, "-p", "8080:80", "--name", "web")
    assert page("http://127.0.0.1:8080/") == "a page\n"
    address = inspect(daemon, "web")["NetworkSettings"]["IPAddress"]
    assert page(f"http://{address}/") == "a page\n"
    assert daemon.docker("port", "web").stdout.splitlines()[0] == "80/tcp -> 0.0.0.0:8080"
    listed = daemon.docker("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Ports}} {{.State}}").stdout
    assert listed == f"{id} web 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp running\n"
    daemon.docker("stop", "-t", "0", "web")
    assert daemon.docker("ps", "-q").stdout == ""
    assert inspect(daemon, "web")["State"]["ExitCode"] == 137
    with pytest.raises(OSError):
        page("http://127.0.0.1:8080/")
    daemon.docker("rm", "web")
    assert daemon.docker("ps", "-aq").stdout == ""


def test_run_in_the_foreground(daemon: Daemon) -> None:
    result = daemon.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 3)
    assert daemon.docker("ps", "-aq").stdout == ""


def test_run_reads_standard_input(daemon: Daemon) -> None:
    text = "".join(f"line {n}\n" for n in range(20000))
    assert daemon.docker("run", "--rm", "-i", "busybox", "cat", input=text).stdout == text


@pytest.mark.parametrize(("command", "code"), [("nosuch", 127), ("/etc", 126), ("/nosuch/path", 127)])
def test_run_of_a_command_that_is_none(daemon: Daemon, command: str, code: int) -> None:
    result = daemon.docker("run", "--rm", "busybox", command, check=False)
    assert result.returncode == code
    assert result.stderr.startswith("docker: Error response from daemon: failed to create task for container: ")
    assert daemon.docker("ps", "-aq").stdout == ""


def test_run_of_an_image_that_is_not_there(daemon: Daemon) -> None:
    result = daemon.docker("run", "--rm", "nosuch", check=False)
    assert result.returncode == 125
    assert "Unable to find image 'nosuch:latest' locally" in result.stderr


def test_a_port_in_use_leaves_the_container_created(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "-p", "8080:80", "--name", "first", "busybox", "sleep", "1000")
    result = daemon.docker("run", "-d", "-p", "8080:80", "--name", "second", "busybox", "true", check=False)
    assert result.returncode == 125
    assert "failed to set up container networking: driver failed programming external connectivity" in result.stderr
    assert "Bind for 0.0.0.0:8080 failed: port is already allocated" in result.stderr
    assert inspect(daemon, "second")["State"]["Status"] == "created"
    daemon.docker("rm", "-f", "first")
    daemon.docker("start", "second")


def test_terminal(daemon: Daemon) -> None:
    """A real terminal: size, echo, prompt without a newline, and the exit code."""
    master, slave = pty.openpty()
    environment = {**os.environ, "DOCKER_HOST": f"unix://{daemon.socket}", "DOCKER_CONFIG": str(daemon.run)}
    process = subprocess.Popen(
        ["docker", "run", "--rm", "-it", "busybox", "sh", "-c", "echo -n 'name? '; read n; echo hi $n; tty; exit 5"],
        stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    seen = _read_until(master, b"name? ")
    os.write(master, b"you\r")
    seen += _read_until(master, b"/dev/")
    assert process.wait(PATIENCE) == 5
    os.close(master)
    assert b"hi you\r\n" in seen


def test_detach_keys_leave_the_container_running(daemon: Daemon) -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "DOCKER_HOST": f"unix://{daemon.socket}", "DOCKER_CONFIG": str(daemon.run)}
    process = subprocess.Popen(
        ["docker", "run", "--name", "shell", "-it", "busybox", "sh"],
        stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    _read_until(master, b"# ")
    os.write(master, b"\x10\x11")
    assert process.wait(PATIENCE) == 0
    os.close(master)
    assert inspect(daemon, "shell")["State"]["Running"]


def _read_until(fd: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        assert select.select([fd], [], [], PATIENCE)[0], seen
        seen += os.read(fd, 4096)
    return seen


def test_logs(daemon: Daemon) -> None:
    daemon.docker("run", "--name", "talker", "busybox", "sh", "-c", "for n in 1 2 3; do echo $n; done; echo e >&2")
    result = daemon.docker("logs", "talker")
    assert (result.stdout, result.stderr) == ("1\n2\n3\n", "e\n")
    assert daemon.docker("logs", "--tail", "2", "talker").stdout == "3\n"
    first, text = daemon.docker("logs", "-t", "talker").stdout.splitlines()[0].split(" ")
    assert text == "1"
    assert first.endswith("Z")
    assert daemon.docker("logs", "--since", first, "talker").stdout.startswith("1\n")
    assert daemon.docker("logs", "--until", "2001-01-01", "talker").stdout == ""


def test_logs_follow_until_the_end(daemon: Daemon) -> None:
    daemon.docker(
        "run", "-d", "--name", "slow", "busybox", "sh", "-c", "for n in 1 2 3; do echo $n; usleep 50000; done"
    )
    assert daemon.docker("logs", "-f", "slow").stdout == "1\n2\n3\n"


def test_exec(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "box", "-e", "A=b", "busybox", "sleep", "1000")
    result = daemon.docker("exec", "box", "sh", "-c", "echo $A; echo err >&2; exit 9", check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("b\n", "err\n", 9)
    assert daemon.docker("exec", "-i", "box", "cat", input="typed").stdout == "typed"
    assert daemon.docker("exec", "-w", "/tmp", "-e", "A=c", "box", "sh", "-c", "pwd; echo $A").stdout == "/tmp\nc\n"
    assert daemon.docker("exec", "box", "nosuch", check=False).returncode == 127
    daemon.docker("exec", "-d", "box", "sh", "-c", "echo made > /made")
    daemon.eventually(lambda: daemon.docker("exec", "box", "cat", "/made", check=False).stdout == "made\n")
    assert daemon.docker("exec", "nosuch", "true", check=False).returncode == 1


@pytest.mark.skipif(ONE_UID, reason="needs several uids: this is a user namespace with one")
def test_exec_as_another_user(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    assert daemon.docker("exec", "-u", "1000:1000", "box", "id").stdout == "uid=1000 gid=1000 groups=1000\n"


def test_networks(daemon: Daemon) -> None:
    daemon.docker("network", "create", "--subnet", "10.77.0.0/24", "--label", "a=b", "mine")
    made = json.loads(daemon.docker("network", "inspect", "mine").stdout)[0]
    assert made["IPAM"]["Config"] == [{"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1"}]
    daemon.docker(
        "run", "-d", "--name", "one", "--network", "mine", "--ip", "10.77.0.9", "--network-alias", "uno", "busybox",
        "sleep", "1000",
    )  # fmt: skip
    daemon.docker("run", "-d", "--name", "two", "--network", "mine", "busybox", "sleep", "1000")
    for name in ("one", "uno", "one.mine"):
        daemon.docker("exec", "two", "ping", "-c", "1", "-W", "2", name)
    daemon.docker("exec", "one", "ping", "-c", "1", "-W", "2", "two")  # who came later is known too
    assert "10.77.0.9" in daemon.docker("network", "inspect", "mine").stdout
    refused = daemon.docker("network", "rm", "mine", check=False)
    assert 'network mine has active endpoints (name:"one"' in refused.stderr
    daemon.docker("network", "connect", "bridge", "one")
    settings = inspect(daemon, "one")["NetworkSettings"]
    assert sorted(settings["Networks"]) == ["bridge", "mine"]
    assert "eth1" in daemon.docker("exec", "one", "ip", "addr").stdout
    daemon.docker("network", "disconnect", "bridge", "one")
    assert "eth1" not in daemon.docker("exec", "one", "ip", "addr").stdout
    daemon.docker("rename", "one", "eins")
    daemon.docker("exec", "two", "ping", "-c", "1", "-W", "2", "eins")
    daemon.docker("rm", "-f", "eins", "two")
    assert "mine" in daemon.docker("network", "ls", "--filter", "label=a").stdout
    daemon.docker("network", "rm", "mine")
    assert "mine" not in daemon.docker("network", "ls").stdout


def test_published_ports_follow_the_default_route(daemon: Daemon) -> None:
    daemon.docker("network", "create", "front")
    serve(daemon, "-p", "8080:80", "--name", "web")
    daemon.docker("network", "connect", "front", "web")
    assert page("http://127.0.0.1:8080/") == "a page\n"
    daemon.docker("network", "disconnect", "bridge", "web")
    assert page("http://127.0.0.1:8080/") == "a page\n"


def test_shared_and_absent_networks(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "owner", "busybox", "sleep", "1000")
    own = daemon.docker("exec", "owner", "ip", "-o", "addr").stdout
    assert daemon.docker("run", "--rm", "--network", "container:owner", "busybox", "ip", "-o", "addr").stdout == own
    none = daemon.docker("run", "--rm", "--network", "none", "busybox", "ip", "-o", "link").stdout
    assert [line.split()[1] for line in none.splitlines()] == ["lo:"]
    host = daemon.docker("run", "--rm", "--network", "host", "busybox", "ip", "-o", "link").stdout
    assert "pb" in host


def test_volumes_binds_and_tmpfs(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    assert daemon.docker("run", "--rm", "-v", "data:/data:ro", "busybox", "cat", "/data/file").stdout == "kept\n"
    refused = daemon.docker("run", "--rm", "-v", "data:/data:ro", "busybox", "touch", "/data/x", check=False)
    assert "Read-only file system" in refused.stderr
    daemon.docker("volume", "rm", "data")
    source = tmp_path / "made" / "here"
    daemon.docker("run", "--rm", "-v", f"{source}:/x", "busybox", "touch", "/x/touched")
    assert (source / "touched").exists()
    missing = daemon.docker(
        "run", "--rm", "--mount", f"type=bind,source={tmp_path}/absent,target=/x", "busybox", "true", check=False
    )
    assert "bind source path does not exist" in missing.stderr
    shown = daemon.docker("run", "--rm", "--tmpfs", "/t:size=1m", "busybox", "df", "/t").stdout
    assert "1024" in shown


def test_states(daemon: Daemon) -> None:
    daemon.docker(
        "run", "-d", "--name", "box", "busybox", "sh", "-c", "trap 'exit 17' TERM; while true; do sleep 0.05; done"
    )
    assert "while true" in daemon.docker("top", "box").stdout
    stats = daemon.docker("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}").stdout
    assert stats.startswith("box ")
    daemon.docker("restart", "-t", "0", "box")
    daemon.docker("kill", "-s", "USR1", "box")
    daemon.docker("update", "--restart", "no", "box")
    waiting = subprocess.Popen(
        ["docker", "wait", "box"], stdout=subprocess.PIPE, env={**os.environ, "DOCKER_HOST": f"unix://{daemon.socket}"}
    )
    daemon.docker("stop", "box")
    assert waiting.communicate(timeout=PATIENCE)[0] in (b"17\n", b"138\n")
    daemon.docker("start", "box")
    assert inspect(daemon, "box")["State"]["Running"]


def test_pause(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    if daemon.docker("pause", "box", check=False).returncode:
        pytest.skip("no cgroup that can freeze here")
    assert "(Paused)" in daemon.docker("ps", "--format", "{{.Status}}").stdout
    assert "is paused" in daemon.docker("exec", "box", "true", check=False).stderr
    daemon.docker("unpause", "box")
    daemon.docker("exec", "box", "true")


def test_restart_policy(daemon: Daemon) -> None:
    daemon.docker("run", "-d", "--name", "fails", "--restart", "on-failure:2", "busybox", "sh", "-c", "exit 4")
    daemon.eventually(lambda: inspect(daemon, "fails")["State"]["Status"] == "exited")
    found = inspect(daemon, "fails")
    assert (found["RestartCount"], found["State"]["ExitCode"]) == (2, 4)


def test_images(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker("tag", "busybox", "example/tool:1")
    assert "example/tool" in daemon.docker("images").stdout
    archive = tmp_path / "tool.tar"
    daemon.docker("save", "-o", str(archive), "example/tool:1")
    daemon.docker("rmi", "example/tool:1")
    assert daemon.docker("load", "-i", str(archive)).stdout == "Loaded image: example/tool:1\n"
    daemon.docker("run", "--rm", "example/tool:1", "true")
    daemon.docker("history", "example/tool:1")
    daemon.docker("rmi", "example/tool:1")
    assert daemon.docker("pull", "busybox").returncode == 0
    assert daemon.docker("pull", "nosuch", check=False).returncode == 1
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin" / "sh")
    plain = tmp_path / "root.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(plain), "."], check=True)
    daemon.docker("import", "--change", 'CMD ["sh", "-c", "echo from import"]', str(plain), "mine:2")
    assert daemon.docker("run", "--rm", "mine:2").stdout == "from import\n"
    daemon.docker("rmi", "mine:2")


def test_events(daemon: Daemon) -> None:
    start = daemon.get("/info").body["SystemTime"]
    daemon.docker("run", "--rm", "--name", "seen", "busybox", "true")
    end = f"{time.time():.6f}"
    lines = daemon.docker(
        "events", "--since", start, "--until", end, "--filter", "container=seen", "--format", "{{.Action}}"
    )
    assert lines.stdout.split() == ["create", "attach", "start", "die", "destroy"]


def test_names(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "taken", "busybox", "true")
    again = daemon.docker("create", "--name", "taken", "busybox", "true", check=False)
    assert 'The container name "/taken" is already in use by container' in again.stderr
    bad = daemon.docker("create", "--name", "a/b", "busybox", "true", check=False)
    assert "Invalid container name (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" in bad.stderr
    daemon.docker("rename", "taken", "free")
    daemon.docker("create", "--name", "taken", "busybox", "true")
    assert daemon.docker("container", "prune", "-f").stdout.startswith("Deleted Containers:")
    assert daemon.docker("ps", "-aq").stdout == ""
