"""What stops half-way: the store goes away under a pynetd that runs, and changes that a kill cut between two records."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.controller import Controller

from support.engine import Daemon


def started(daemon: Daemon, name: str, **body: Any) -> str:
    reply = daemon.post("/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"], **body}, name=name)
    assert reply.status == 201, reply
    assert daemon.post(f"/containers/{name}/start").status == 204
    return str(reply.body["Id"])


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    body: dict[str, Any] = daemon.get(f"/containers/{name}/json").body
    return body


# -- the store -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["pynet.db", "pynet.db-wal"])
def test_a_store_that_goes_away_under_us_stops_changes_and_nothing_else(daemon: Daemon, file: str) -> None:
    started(daemon, "box", HostConfig={"AutoRemove": False})
    before = inspect(daemon, "box")["State"]
    path, away = daemon.root / file, daemon.root / "away"
    path.rename(away)
    bodies = {"/containers/create?name=new": {"Image": "busybox"}, "/networks/create": {"Name": "new"}}
    answers = [daemon.post(call, body) for call, body in bodies.items()]
    answers += [daemon.post(f"/containers/box/{verb}") for verb in ("stop", "kill", "restart")]
    answers.append(daemon.delete("/containers/box", force=1))
    for reply in answers:
        assert reply.status == 500, reply
        assert f"{file} was deleted while it was in use" in reply.body["message"], reply
        assert "what runs goes on" in reply.body["hint"], reply
    assert not path.exists(), "a store was made in the place of the one that is gone"
    assert inspect(daemon, "box")["State"] == before
    assert os.path.exists(f"/proc/{before['Pid']}")
    (warning,) = [text for text in daemon.get("/info").body["Warnings"] if "nothing can be changed" in text]
    assert f"{file} was deleted while it was in use" in warning
    away.rename(path)
    assert not [text for text in daemon.get("/info").body["Warnings"] if "nothing can be changed" in text]
    assert daemon.delete("/containers/box", force=1).status == 204
    assert daemon.get("/pynet/check").body == []


def is_at_rest(daemon: Daemon, name: str) -> bool:
    """Whether it has ended, and its networks know."""
    found = inspect(daemon, name)
    left = [one["EndpointID"] for one in found["NetworkSettings"]["Networks"].values() if one["EndpointID"]]
    return not found["State"]["Running"] and not left


def test_a_removal_that_can_not_be_written_down_leaves_the_container_of_use(daemon: Daemon) -> None:
    started(daemon, "box")
    assert daemon.post("/containers/box/kill").status == 204
    daemon.eventually(lambda: is_at_rest(daemon, "box"))
    path, away = daemon.root / "pynet.db", daemon.root / "away"
    path.rename(away)
    assert daemon.delete("/containers/box").status == 500
    away.rename(path)
    assert inspect(daemon, "box")["State"]["Status"] == "exited"
    assert daemon.post("/containers/box/start").status == 204


# -- records and endpoints -----------------------------------------------------------------------------------------------


@contextmanager
def library(daemon: Daemon) -> Generator[Controller]:
    """The library in the place of pynetd, to leave what a kill leaves."""
    daemon.terminate()
    with Controller(daemon.root, daemon.run) as controller:
        yield controller
    assert daemon.start() == "1"


def test_endpoints_that_no_record_names_are_gone_after_a_start(daemon: Daemon) -> None:
    """A start or a connect was killed after the endpoint was made, and before the container's record named it."""
    daemon.post("/networks/create", {"Name": "mine"})
    id = started(daemon, "box")
    with library(daemon) as controller:
        controller.network("mine").create_endpoint("box").join(controller.sandbox(id))
        controller.network("mine").create_endpoint("other")
    assert daemon.get("/networks/mine").body["Containers"] == {}
    assert daemon.post("/networks/mine/connect", {"Container": "box"}).status == 200
    assert inspect(daemon, "box")["NetworkSettings"]["Networks"]["mine"]["IPAddress"]
    assert daemon.delete("/containers/box", force=1).status == 204
    assert daemon.delete("/networks/mine").status == 204
    assert daemon.get("/pynet/check").body == []


def test_a_disconnect_that_was_killed_half_way_is_finished(daemon: Daemon) -> None:
    daemon.post("/networks/create", {"Name": "mine"})
    started(daemon, "box")
    assert daemon.post("/networks/mine/connect", {"Container": "box"}).status == 200
    endpoint = inspect(daemon, "box")["NetworkSettings"]["Networks"]["mine"]["EndpointID"]
    with library(daemon) as controller:
        controller.endpoint(endpoint).delete()
    assert list(inspect(daemon, "box")["NetworkSettings"]["Networks"]) == ["bridge"]
    assert daemon.post("/networks/mine/connect", {"Container": "box"}).status == 200


def test_a_disconnect_that_leaves_something_in_the_kernel_is_one_all_the_same(daemon: Daemon) -> None:
    id = daemon.post("/networks/create", {"Name": "mine"}).body["Id"]
    host = {"NetworkMode": "mine", "PortBindings": {"80/tcp": [{"HostPort": "8081"}]}}
    container = started(daemon, "box", HostConfig=host)
    forwarder = daemon.forwarder_pid()
    os.kill(forwarder, signal.SIGSTOP)
    try:
        reply = daemon.post("/networks/mine/disconnect", {"Container": "box"})
    finally:
        os.kill(forwarder, signal.SIGCONT)
    assert reply.status >= 500, reply
    assert inspect(daemon, "box")["NetworkSettings"]["Networks"] == {}
    events = daemon.get("/events", since="0", until=str(time.time()), filters={"type": ["network"], "network": [id]})
    assert '"disconnect"' in str(events.body).replace("'", '"')
    daemon.terminate()
    assert daemon.start() == "1"
    assert inspect(daemon, "box")["NetworkSettings"]["Networks"] == {}
    assert daemon.post("/networks/mine/connect", {"Container": "box"}).status == 200
    assert container


def test_a_prune_goes_on_and_tells_what_it_could_not_remove(daemon: Daemon) -> None:
    ids = {started(daemon, name) for name in ("one", "two")}
    for name in ("one", "two"):
        assert daemon.post(f"/containers/{name}/stop", t=0).status == 204
    trash: Path = daemon.root / "trash"
    if trash.is_dir():
        trash.rmdir()
    trash.touch()
    reply = daemon.post("/containers/prune")
    assert (reply.status, reply.body["ContainersDeleted"], reply.body["SpaceReclaimed"]) == (200, None, 0)
    assert [warning.partition(":")[0] for warning in reply.body["Warnings"]] == ["container one", "container two"]
    said = daemon.pynet("container", "prune", "-f")
    assert (said.returncode, said.stderr.count("WARNING: container ")) == (1, 2)
    trash.unlink()
    reply = daemon.post("/containers/prune")
    assert (set(reply.body["ContainersDeleted"]), "Warnings" in reply.body) == (ids, False)


def test_a_removal_with_volumes_that_was_cut_takes_them_along_later(daemon: Daemon) -> None:
    started(daemon, "box", Volumes={"/data": {}})
    assert len(daemon.get("/volumes").body["Volumes"]) == 1
    trash: Path = daemon.root / "trash"
    if trash.is_dir():
        trash.rmdir()
    trash.touch()  # the directory can not be thrown away: the removal stops in the middle
    assert daemon.delete("/containers/box", force=1, v=1).status == 500
    daemon.terminate()
    trash.unlink()
    assert daemon.start() == "1"
    daemon.eventually(lambda: daemon.get("/containers/json", all=1).body == [], "the removal was not finished")
    daemon.eventually(lambda: daemon.get("/volumes").body["Volumes"] == [], "the volume stays")


# -- networks that are gone ----------------------------------------------------------------------------------------------


def test_a_container_is_taken_off_a_network_that_is_gone(daemon: Daemon) -> None:
    id = daemon.post("/networks/create", {"Name": "mine"}).body["Id"]
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "mine"}}
    assert daemon.post("/containers/create", body, name="box").status == 201
    assert daemon.delete("/networks/mine").status == 204
    assert daemon.post("/containers/box/start").status == 404
    assert daemon.post("/networks/mine/disconnect", {"Container": "box"}).status == 200
    reply = daemon.post("/networks/bridge/disconnect", {"Container": "box", "Force": True})
    assert reply.status == 500, reply
    assert reply.body["message"].endswith("is not connected to the network bridge"), reply
    assert daemon.post(f"/networks/{id}/disconnect", {"Container": "box"}).status == 404
    assert daemon.post("/networks/bridge/connect", {"Container": "box"}).status == 200
    assert daemon.post("/containers/box/start").status == 204


# -- what is asked for in two steps --------------------------------------------------------------------------------------


def test_limits_must_make_sense_together_with_those_that_are_set(daemon: Daemon) -> None:
    host = {"Memory": 64 << 20, "MemorySwap": 64 << 20, "CpuQuota": 50_000}
    assert daemon.post("/containers/create", {"Image": "busybox", "HostConfig": host}, name="box").status == 201
    reply = daemon.post("/containers/box/update", {"Memory": 128 << 20})
    assert (reply.status, "memoryswap limit should be larger" in reply.body["message"]) == (400, True), reply
    reply = daemon.post("/containers/box/update", {"NanoCpus": 500_000_000})
    assert (reply.status, "cannot both be set" in reply.body["message"]) == (400, True), reply
    assert daemon.post("/containers/box/update", {"Memory": 128 << 20, "MemorySwap": 128 << 20}).status == 200
    assert inspect(daemon, "box")["HostConfig"]["Memory"] == 128 << 20


def test_a_prune_of_what_is_older_than_everything_removes_nothing(daemon: Daemon) -> None:
    reply = daemon.post("/images/prune", filters={"dangling": ["false"], "until": ["0"]})
    assert (reply.status, reply.body["ImagesDeleted"]) == (200, None), reply


def test_the_log_of_a_container_whose_directory_goes(daemon: Daemon) -> None:
    id = started(daemon, "box")
    place = daemon.root / "containers" / id
    place.rename(daemon.root / "away")
    for reply in (daemon.get("/containers/box/logs", stdout=1), daemon.post("/containers/box/attach", stdout=1)):
        assert (reply.status, reply.body["message"]) == (404, f"No such container: {id}"), reply
    (daemon.root / "away").rename(place)
    assert "Traceback" not in daemon.log()


@pytest.mark.parametrize("field", ["ClusterVolumeSpec", "Nmae"])
def test_a_volume_is_not_made_with_less_than_was_asked_for(daemon: Daemon, field: str) -> None:
    reply = daemon.post("/volumes/create", {"Name": "data", field: {"Group": "x"}})
    assert reply.status == 400, reply
    assert daemon.get("/volumes/data").status == 404


def test_a_network_is_shared_along_a_chain_and_in_no_ring(daemon: Daemon) -> None:
    started(daemon, "one")
    started(daemon, "two", HostConfig={"NetworkMode": "container:one"})
    started(daemon, "three", HostConfig={"NetworkMode": "container:two"})
    pids = [inspect(daemon, name)["State"]["Pid"] for name in ("one", "two", "three")]
    assert len({os.readlink(f"/proc/{pid}/ns/net") for pid in pids}) == 1
    body = {"Image": "busybox", "HostConfig": {"NetworkMode": "container:self"}}
    assert daemon.post("/containers/create", body, name="self").status == 201
    reply = daemon.post("/containers/self/start")
    assert (reply.status, reply.body["message"]) == (409, "cannot join own network"), reply
