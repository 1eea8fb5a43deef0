"""Trees that containers made, deeper than any recursion: shown, removed, and never in the way of a start."""

from __future__ import annotations

import os
from pathlib import Path

from support.engine import Daemon

DIG = "for where in / /v; do cd $where; i=0; while [ $i -lt 1500 ]; do mkdir d && cd d; i=$((i+1)); done; done; echo x > f"


def dig(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def run(daemon: Daemon, name: str, script: str, **host_config: object) -> None:
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "StopSignal": "KILL", "HostConfig": host_config}
    reply = daemon.post("/containers/create", body, name=name)
    assert reply.status == 201, reply
    assert daemon.post(f"/containers/{name}/start").status == 204


def test_a_container_may_dig_as_deep_as_it_likes(daemon: Daemon) -> None:
    run(daemon, "digger", DIG, Binds=["deep:/v"], NetworkMode="none")
    assert daemon.post("/containers/digger/wait").body["StatusCode"] == 0
    usage = daemon.get("/system/df")
    assert usage.status == 200, usage
    assert [volume["UsageData"]["Size"] for volume in usage.body["Volumes"]] == [2]
    assert daemon.get("/containers/digger/json", size=1).body["SizeRw"] == 0
    assert daemon.delete("/containers/digger").status == 204
    assert daemon.post("/volumes/prune", filters={"all": ["true"]}).body["VolumesDeleted"] == ["deep"]
    daemon.eventually(lambda: not os.listdir(daemon.root / "trash"), "the container's files are still there")
    assert os.listdir(daemon.root / "volumes") == os.listdir(daemon.root / "containers") == []


def test_what_a_kill_left_of_deep_trees_keeps_no_container_from_its_restart(daemon: Daemon) -> None:
    """The start removes it, and goes on to the policies: after a reboot an "always" container is back."""
    run(daemon, "always", "exec sleep 1000", RestartPolicy={"Name": "always"}, NetworkMode="none")
    daemon.post("/pynet/shutdown", all=1)
    assert daemon.process is not None
    daemon.process.wait(20)
    daemon.eventually(lambda: not daemon.pid("supervisor"))
    left = [daemon.root / "trash/left", daemon.root / "images/tmp/left"]
    for path in left:
        dig(path)
    assert daemon.start() == "1", daemon.log()
    daemon.eventually(lambda: daemon.get("/containers/always/json").body["State"]["Running"], "it is not back")
    assert not any(path.exists() for path in left)
