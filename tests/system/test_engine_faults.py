"""kill -9 of any process at any time: nothing is lost, everything is back, and nothing is left over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pynet.netlib.instance import Instance
from pynet.plugins.testhost import Host
from pynet.runtime.client import SupervisorClient
from pynet.runtime.spec import ContainerSpec

from support.engine import Daemon
from support.waiting import PATIENCE

COUNTER = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); usleep 5000; done; exit 42"
SERVER = "while true; do echo answer | nc -l -p 80; done"


def create(daemon: Daemon, name: str, script: str, **host_config: object) -> str:
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "StopSignal": "KILL", "HostConfig": host_config}
    reply = daemon.post("/containers/create", body, name=name)
    assert reply.status == 201, reply
    return str(reply.body["Id"])


def start(daemon: Daemon, name: str) -> None:
    reply = daemon.post(f"/containers/{name}/start")
    assert reply.status == 204, reply


def run(daemon: Daemon, name: str, script: str, **host_config: object) -> str:
    id = create(daemon, name, script, **host_config)
    start(daemon, name)
    return id


def state(daemon: Daemon, name: str) -> dict[str, object]:
    body: dict[str, object] = daemon.get(f"/containers/{name}/json").body["State"]
    return body


def fetch(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.settimeout(PATIENCE)
        return sock.makefile("rb").readline()


def log_lines(daemon: Daemon, name: str) -> list[str]:
    frames = daemon.request("GET", f"/containers/{name}/logs?stdout=1").body.encode()
    lines: list[str] = []
    while frames:
        length = int.from_bytes(frames[4:8], "big")
        lines.append(frames[8 : 8 + length].decode())
        frames = frames[8 + length :]
    return lines


def test_killed_everything_in_turn_under_way(daemon: Daemon) -> None:
    run(daemon, "count", COUNTER)
    run(daemon, "web", SERVER, PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    daemon.eventually(lambda: _answers(8080))
    pid = state(daemon, "web")["Pid"]
    for victim in ("pynetd", "supervisor", "forwarder", "pynetd"):
        old = daemon.kill(victim)
        if victim == "pynetd":
            daemon.wait_back(old)
        daemon.eventually(lambda: _answers(8080), f"the port is dead after the death of {victim}")
    assert state(daemon, "web")["Pid"] == pid
    code = daemon.post("/containers/count/wait").body["StatusCode"]
    assert code == 42
    assert log_lines(daemon, "count") == [f"line {n}\n" for n in range(200)]
    assert daemon.get("/pynet/check").body == []


def _answers(port: int) -> bool:
    try:
        return fetch(port) == b"answer\n"
    except OSError:
        return False


def test_a_container_that_ends_while_the_daemon_is_away_has_its_exit_code_and_frees_its_port(daemon: Daemon) -> None:
    # it ends when it is told to, while pynetd is away
    script = "echo ready; while [ ! -e /told/go ]; do sleep 0.02; done; exit 7"
    told = daemon.run / "told"
    run(daemon, "short", script, PortBindings={"80/tcp": [{"HostPort": "8080"}]}, Binds=[f"{told}:/told"])
    run(daemon, "gone", "exit 3", AutoRemove=True)
    pid = int(str(state(daemon, "short")["Pid"]))
    daemon.terminate()
    (told / "go").touch()
    daemon.eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    assert not daemon.pid(), "pynetd is back: it was not away when the container ended"
    assert daemon.start() == "1"
    daemon.eventually(lambda: state(daemon, "short")["Status"] == "exited")
    assert state(daemon, "short")["ExitCode"] == 7
    daemon.eventually(lambda: daemon.get("/containers/gone/json").status == 404)
    run(daemon, "next", "sleep 1000", PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    assert daemon.get("/pynet/check").body == []


def test_kill_of_everything_at_once_leaves_nothing_stray(daemon: Daemon) -> None:
    run(daemon, "web", "sleep 1000", PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    run(daemon, "always", "sleep 1000", RestartPolicy={"Name": "always"})
    pids = [int(str(state(daemon, name)["Pid"])) for name in ("web", "always")]
    # first those who would start the others again
    victims = [daemon.pid("supervisor"), daemon.forwarder_pid(), daemon.pid(), *pids]
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    if daemon.process is not None:
        daemon.process.wait()
        daemon.process = None
    daemon.eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in victims))
    assert daemon.start() == "1"
    daemon.eventually(lambda: state(daemon, "web")["Status"] == "exited")
    daemon.eventually(lambda: state(daemon, "always")["Status"] == "running")
    assert daemon.get("/pynet/check").body == []


def test_killed_during_starts_and_removals(daemon: Daemon) -> None:
    """Whatever was under way is either done or undone, and every name and port can be used again."""
    for round in range(3):
        names = [f"c{round}{n}" for n in range(4)]
        for n, name in enumerate(names):
            create(daemon, name, "sleep 1000", PortBindings={"80/tcp": [{"HostPort": str(9000 + n)}]})
        senders = [
            subprocess.Popen(
                ["curl", "-s", "-X", "POST", "--unix-socket", daemon.socket, f"http://x/containers/{name}/start"],
                stdout=subprocess.DEVNULL,
            )
            for name in names
        ]
        senders[round % 4].wait()
        old = daemon.kill()
        for sender in senders:
            sender.wait()
        daemon.wait_back(old)
        assert daemon.get("/pynet/check").body == []
        for name in names:
            assert daemon.delete(f"/containers/{name}", force=1).status == 204
    assert daemon.get("/containers/json", all=1).body == []
    run(daemon, "last", "sleep 1000", PortBindings={"80/tcp": [{"HostPort": "9000"}]})


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_somebody_flushes_the_firewall(daemon: Daemon, host: Host) -> None:
    """Containers can still be stopped, and what was lost comes back by itself."""
    run(daemon, "web", SERVER, PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    run(daemon, "other", SERVER, PortBindings={"80/tcp": [{"HostPort": "8081"}]})
    daemon.eventually(lambda: _answers(8081))
    host.run(["nft", "flush", "ruleset"])
    assert daemon.delete("/containers/web", force=1).status == 204
    daemon.eventually(lambda: daemon.get("/pynet/check").body == [])
    assert daemon.post("/pynet/repair").status == 200
    daemon.eventually(lambda: _answers(8081))
    run(daemon, "again", "sleep 1000", PortBindings={"80/tcp": [{"HostPort": "8080"}]})


def test_somebody_removes_links_and_namespaces(daemon: Daemon, host: Host) -> None:
    id = run(daemon, "web", "sleep 1000", PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    for link in host.rtnl.links():
        if link.name.startswith("pv"):
            host.rtnl.delete_link(link.index)
    daemon.eventually(lambda: daemon.get("/pynet/check").body == [])
    assert daemon.post("/containers/web/restart", t=0).status == 204
    assert daemon.get("/pynet/check").body == []
    subprocess.run(["umount", str(daemon.run / "netns" / id)], check=False, stderr=subprocess.DEVNULL)
    assert daemon.delete("/containers/web", force=1).status == 204
    run(daemon, "again", "sleep 1000", PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    assert daemon.get("/pynet/check").body == []


def test_two_daemons_on_one_root(daemon: Daemon) -> None:
    second = Daemon(daemon.run.parent)
    said = second.start()
    assert "in use by another process" in said
    command = [sys.executable, "-I", "-m", "pynet.engine.daemon", "--root", str(second.root), "--run", str(second.run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pynetd: ") and "in use by another process" in done.stderr
    assert daemon.get("/_ping").status == 200


def test_stop_of_the_daemon_leaves_containers_running(daemon: Daemon) -> None:
    run(daemon, "web", SERVER, PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    daemon.eventually(lambda: _answers(8080))
    pid = state(daemon, "web")["Pid"]
    daemon.terminate()
    assert fetch(8080) == b"answer\n"
    assert daemon.start() == "1"
    assert state(daemon, "web")["Pid"] == pid
    daemon.eventually(lambda: _answers(8080))


def test_restart_policy_after_a_full_stop(daemon: Daemon) -> None:
    run(daemon, "always", "sleep 1000", RestartPolicy={"Name": "always"})
    run(daemon, "unless", "sleep 1000", RestartPolicy={"Name": "unless-stopped"})
    run(daemon, "never", "sleep 1000")
    run(daemon, "stopped", "sleep 1000", RestartPolicy={"Name": "unless-stopped"})
    assert daemon.post("/containers/stopped/stop", t=0).status == 204
    assert daemon.post("/pynet/shutdown", all=1).status == 204
    assert daemon.process is not None
    daemon.process.wait()
    daemon.eventually(lambda: not daemon.pid("supervisor"))
    assert daemon.start() == "1"
    for name in ("always", "unless"):
        daemon.eventually(lambda name=name: state(daemon, name)["Status"] == "running")
    for name in ("never", "stopped"):
        assert state(daemon, name)["Status"] == "exited"


def test_the_supervisor_dies_again_and_again_during_starts(daemon: Daemon) -> None:
    """A start that lost its supervisor is an error or has happened; nothing runs that is not on record."""
    names = [f"c{n}" for n in range(6)]
    for name in names:
        create(daemon, name, "sleep 1000")
    for n in range(0, 6, 2):
        sender = subprocess.Popen(
            ["curl", "-s", "-X", "POST", "--unix-socket", daemon.socket, f"http://x/containers/{names[n]}/start"],
            stdout=subprocess.DEVNULL,
        )
        old = daemon.kill("supervisor")
        sender.wait()
        daemon.eventually(lambda old=old: daemon.pid("supervisor") not in (0, old))
        daemon.eventually(lambda n=n: daemon.post(f"/containers/{names[n + 1]}/start").status in (204, 304))
    for name in names:
        daemon.eventually(lambda name=name: daemon.post(f"/containers/{name}/start").status in (204, 304))
        assert daemon.post(f"/containers/{name}/exec", {"Cmd": ["true"]}).status == 201
    assert daemon.get("/pynet/check").body == []


def test_a_supervisor_that_finds_no_container_removes_the_cgroups_of_its_predecessor(daemon: Daemon) -> None:
    parent = Instance.at(str(daemon.root), str(daemon.run)).cgroup
    run(daemon, "box", "sleep 1000")
    if not _groups(parent):
        pytest.skip("cgroups may not be made here")
    assert daemon.delete("/containers/box", force=1).status == 204
    daemon.kill("supervisor")
    daemon.eventually(lambda: not _groups(parent), "the empty parent cgroup stays")


def _groups(parent: str) -> list[str]:
    return [
        line.split()[1]
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[2].startswith("cgroup") and os.path.isdir(f"{line.split()[1]}/{parent}")
    ]


def test_containers_of_a_network_that_end_at_the_same_time_all_end(daemon: Daemon) -> None:
    """Each end rewrites the hosts files of the others, which may be gone by then."""
    assert daemon.post("/networks/create", {"Name": "web"}).status == 201
    names = [f"c{n}" for n in range(6)]
    for _ in range(3):
        for name in names:
            run(daemon, name, "exec sleep 1000", NetworkMode="web")
        pids = [int(str(state(daemon, name)["Pid"])) for name in names]
        assert 0 not in pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for name in names:
            assert daemon.post(f"/containers/{name}/wait").body["StatusCode"] == 137
            assert daemon.delete(f"/containers/{name}").status == 204
    assert "Traceback" not in daemon.log()
    assert daemon.get("/pynet/check").body == []


def test_a_forwarder_that_nobody_can_talk_to_is_replaced(daemon: Daemon) -> None:
    run(daemon, "web", SERVER, PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    daemon.eventually(lambda: _answers(8080))
    (daemon.run / "forwarder.sock").unlink()
    daemon.wait_back(daemon.kill())
    daemon.eventually(lambda: _answers(8080))
    assert daemon.forwarder_pid()
    assert daemon.delete("/containers/web", force=1).status == 204
    run(daemon, "next", SERVER, PortBindings={"80/tcp": [{"HostPort": "8080"}]})
    daemon.eventually(lambda: _answers(8080))
    assert daemon.get("/pynet/check").body == []


@pytest.mark.parametrize("victim", ["forwarder", "supervisor"])
def test_a_start_waits_for_who_is_on_its_way_back(daemon: Daemon, victim: str) -> None:
    for turn in range(5):
        name = f"web{turn}"
        create(daemon, name, SERVER, PortBindings={"80/tcp": [{"HostPort": "8080"}]})
        daemon.kill(victim)
        reply = daemon.post(f"/containers/{name}/start")
        assert reply.status == 204, reply
        daemon.eventually(lambda: _answers(8080))
        assert state(daemon, name)["Running"]
        assert daemon.delete(f"/containers/{name}", force=1).status == 204
    assert daemon.get("/pynet/check").body == []


NAMES = ("one", "two", "three", "four")


def test_the_supervisor_dies_in_the_middle_of_starts(daemon: Daemon) -> None:
    """A start that was under way is made again; the end of what ran before is not taken for the new one's."""
    for name in NAMES:
        create(daemon, name, "sleep 1000", AutoRemove=True)
    replies: dict[str, int] = {}

    def start(name: str) -> None:
        replies[name] = daemon.post(f"/containers/{name}/start").status

    threads = [threading.Thread(target=start, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    daemon.kill("supervisor")
    for thread in threads:
        thread.join()
    assert replies == dict.fromkeys(NAMES, 204), daemon.log()
    for name in NAMES:
        assert state(daemon, name)["Running"]
        assert os.path.exists(f"/proc/{state(daemon, name)['Pid']}")


def test_what_runs_though_its_start_was_given_up_is_ended(daemon: Daemon) -> None:
    """Its process was born when pynetd had taken its network down already."""
    run(daemon, "box", "sleep 1000")
    id = daemon.get("/containers/box/json").body["Id"]
    spec: ContainerSpec = json.loads((daemon.run / "containers" / id / "spec.json").read_text())
    assert daemon.post("/containers/box/stop", t=0).status == 204
    with SupervisorClient(daemon.run / "supervisor.sock") as client:
        spec["netns"] = ""
        client.start(spec)
        assert [(found["id"], found["status"]) for found in client.list()] == [(id, "running")]
        daemon.wait_back(daemon.kill())
        daemon.eventually(lambda: client.list() == [], "it runs without a network")
    assert state(daemon, "box")["Status"] == "exited"
    assert daemon.post("/containers/box/start").status == 204


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_store_that_is_lost_costs_no_container(daemon: Daemon, how: str) -> None:
    run(daemon, "box", "sleep 1000")
    pid = int(str(state(daemon, "box")["Pid"]))
    daemon.terminate()
    kept = daemon.root / "kept.db"
    for path in daemon.root.glob("pynet.db*"):
        shutil.copy(path, daemon.root / path.name.replace("pynet", "kept"))
        if how == "deleted" or path.suffix != ".db":
            path.unlink()
        else:
            os.truncate(path, 0)
    said = daemon.start()
    assert "is gone, but 1 containers are there and 1 run" in said, said
    assert "put it back" in said
    assert os.path.exists(f"/proc/{pid}")
    for path in kept.parent.glob("kept.db*"):
        path.rename(daemon.root / path.name.replace("kept", "pynet"))
    assert daemon.start() == "1"
    assert state(daemon, "box")["Pid"] == pid


def test_an_end_that_was_asked_for_is_no_failure(daemon: Daemon) -> None:
    """The stop signal by kill ends a container for good, whatever its policy; another signal does not."""
    script = "trap 'exit 0' TERM; trap 'exit 1' USR1; echo ready; while :; do sleep 0.02; done"
    id = create(daemon, "box", script, RestartPolicy={"Name": "always"})
    log = daemon.root / "containers" / id / "log.json"

    def ready(times: int) -> bool:
        return log.exists() and log.read_text().count("ready") == times

    start(daemon, "box")
    daemon.eventually(lambda: ready(1))
    assert daemon.post("/containers/box/kill", signal="USR1").status == 204
    daemon.eventually(lambda: ready(2), "its policy did not start it again")
    assert daemon.delete("/containers/box", force=1).status == 204
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"RestartPolicy": {"Name": "always"}}}
    id = str(daemon.post("/containers/create", body, name="box").body["Id"])
    log = daemon.root / "containers" / id / "log.json"
    start(daemon, "box")
    daemon.eventually(lambda: ready(1))
    wait = daemon.connection()
    wait.request("POST", "/containers/box/wait")
    answer = wait.getresponse()
    assert daemon.post("/containers/box/kill", signal="TERM").status == 204
    assert b'"StatusCode": 0' in answer.read()
    wait.close()
    assert state(daemon, "box")["Status"] == "exited"
