"""The Engine API by raw HTTP: shapes, status codes, texts, streams, and everything that a client can do wrong."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pynet.engine.api.call import MAX_JSON

from support.engine import Bed, Daemon, Reply
from support.waiting import PATIENCE


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


def create(daemon: Daemon, name: str = "", **body: Any) -> Reply:
    query = {"name": name} if name else {}
    return daemon.post("/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"], **body}, **query)


def made(daemon: Daemon, name: str = "", **body: Any) -> str:
    reply = create(daemon, name, **body)
    assert reply.status == 201, reply
    return str(reply.body["Id"])


def started(daemon: Daemon, name: str = "", **body: Any) -> str:
    id = made(daemon, name, **body)
    reply = daemon.post(f"/containers/{id}/start")
    assert reply.status == 204, reply
    return id


# -- the protocol ------------------------------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_and_group_only(daemon: Daemon) -> None:
    assert stat.S_IMODE(os.stat(daemon.socket).st_mode) == 0o660


@pytest.mark.parametrize("prefix", ["", "/v1.51", "/v1.24"])
def test_ping(daemon: Daemon, prefix: str) -> None:
    for method in ("GET", "HEAD"):
        reply = daemon.request(method, f"{prefix}/_ping")
        assert reply.status == 200
        assert reply.body == ("OK" if method == "GET" else "")
        assert reply.headers["Api-Version"] == "1.51"
        assert reply.headers["Ostype"] == "linux"
        assert reply.headers["Swarm"] == "inactive"
        assert reply.headers["Cache-Control"] == "no-cache, no-store, must-revalidate"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1.23/_ping", 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please"),
        ("/v1.52/info", 400, "client version 1.52 is too new. Maximum supported API version is 1.51"),
        ("/nosuch", 404, "page not found"),
        ("/v1.40", 404, "page not found"),
        ("/containers/x/nosuch", 404, "page not found"),
        ("/containers/nosuch/json", 404, "No such container: nosuch"),
        ("/networks/nosuch", 404, "network nosuch not found"),
        ("/images/nosuch/json", 404, "No such image: nosuch:latest"),
        ("/images/a/b/c:1/json", 404, "No such image: a/b/c:1"),
        ("/volumes/nosuch", 404, "get nosuch: no such volume"),
        ("/exec/nosuch/json", 404, "No such exec instance: nosuch"),
        ("/containers/json?filters=nonsense", 400, "invalid filters: 'nonsense' is not JSON"),
        ("/containers/json?filters=%7B%22x%22%3A%5B%22y%22%5D%7D", 400, "invalid filter 'x'"),
        ("/containers/json?limit=many", 400, 'strconv.Atoi: parsing "many": invalid syntax'),
        ("/events?since=yesterday", 400, "invalid time 'yesterday': must be Unix seconds or RFC 3339"),
        ("/swarm", 503, "This node is not a swarm manager."),
    ],
)  # fmt: skip
def test_errors(daemon: Daemon, path: str, status: int, message: str) -> None:
    reply = daemon.get(path)
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.body["message"].startswith(message)


def test_what_stands_in_the_way_of_networks_is_among_the_warnings(daemon: Daemon) -> None:
    before = daemon.get("/info").body["Warnings"]
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    forwarding.write_text("0")
    told = [warning for warning in daemon.get("/info").body["Warnings"] if warning not in before]
    assert len(told) == 1 and "net.ipv4.ip_forward=1" in told[0]
    forwarding.write_text("1")
    assert daemon.get("/info").body["Warnings"] == before


def test_a_wrong_method_is_an_unknown_page(daemon: Daemon) -> None:
    assert daemon.delete("/info").status == 404
    assert daemon.request("PUT", "/containers/json").status == 404


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"{}", "text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        (b"{", "application/json", "invalid JSON: "),
        (b"[]", "application/json", "invalid JSON: the body must be an object"),
        (b"{} x", "application/json", "unexpected content after JSON"),
        (b"\xff\xfe", "application/json", "invalid JSON: the body is not UTF-8"),
        (b"[" * 100_000, "application/json", "invalid JSON: "),
        (b'{"Name": NaN}', "application/json", "invalid JSON: NaN is not a number"),
        (b'{"Name": -Infinity}', "application/json", "invalid JSON: -Infinity is not a number"),
        (b'{"Name": 1e999}', "application/json", "invalid JSON: 1e999 is out of range"),
        (b'{"Name": 5}', "application/json; charset=utf-8", "invalid JSON: Name must be a string"),
        (b'{"Name": "' + b"x" * MAX_JSON + b'"}', "application/json", f"the request body is larger than {MAX_JSON}"),
        (b"", "application/json", "invalid network name: name is empty"),
    ],
)
def test_malformed_bodies(daemon: Daemon, body: bytes, kind: str, message: str) -> None:
    reply = daemon.request("POST", "/networks/create", body, headers={"Content-Type": kind})
    assert reply.status == 400
    assert reply.body["message"].startswith(message)


def test_malformed_http(daemon: Daemon) -> None:
    for raw in (
        b"nonsense\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET " + b"/" * 200_000 + b" HTTP/1.1\r\n\r\n",
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(daemon.socket)
            try:
                sock.sendall(raw)
                answer = sock.recv(4096)
            except ConnectionError:
                answer = b""
            assert not answer or b" 400 " in answer.split(b"\r\n")[0]
    assert daemon.get("/_ping").status == 200


# -- containers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"Image": ""}, 400, "no image specified"),
        ({"Image": "nosuch"}, 404, "No such image: nosuch:latest"),
        ({"Image": "BAD NAME"}, 400, "invalid reference format"),
        ({"Cmd": [], "Entrypoint": [""]}, 400, "no command specified"),
        ({"Cmd": 5}, 400, "invalid JSON: Cmd must be a list of strings"),
        ({"Env": ["=x"]}, 400, "invalid environment variable: =x"),
        ({"Hostname": "a b"}, 400, "invalid hostname format: a b"),
        ({"WorkingDir": "relative"}, 400, "the working directory 'relative' is invalid"),
        ({"StopSignal": "SIGNOPE"}, 400, "invalid signal: SIGNOPE"),
        ({"ExposedPorts": {"0/tcp": {}}}, 400, "invalid range format for ExposedPorts: 0/tcp"),
        ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "65536"}]}}}, 400, 'invalid port specification: "65536"'),
        ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "90-80"}]}}}, 400, 'invalid port specification: "90-80"'),
        ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "nope"}]}}}, 400, "invalid IP address: nope"),
        ({"HostConfig": {"Memory": 1}}, 400, "Minimum memory limit allowed is 6MB"),
        ({"HostConfig": {"RestartPolicy": {"Name": "maybe"}}}, 400, "invalid restart policy: unknown policy 'maybe'"),
        ({"HostConfig": {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}}, 400, "can't create 'AutoRemove' container"),
        ({"HostConfig": {"CapAdd": ["NOPE"]}}, 400, 'invalid capability: "NOPE"'),
        ({"HostConfig": {"Binds": ["a:b:c:d"]}}, 400, "invalid volume specification: 'a:b:c:d'"),
        ({"HostConfig": {"Binds": ["/a:relative"]}}, 400, "invalid volume specification: '/a:relative': mount path"),
        ({"HostConfig": {"Binds": ["/a:/b", "/c:/b"]}}, 400, "Duplicate mount point: /b"),
        ({"HostConfig": {"Sysctls": {"kernel.panic": "1"}}}, 400, "sysctl 'kernel.panic' is not in a separate kernel namespace"),
        ({"HostConfig": {"LogConfig": {"Type": "syslog"}}}, 400, "logger: no log driver named 'syslog' is registered"),
        ({"HostConfig": {"NetworkMode": "container:"}}, 400, "invalid container format container:<name|id>"),
        ({"HostConfig": {"Links": ["a:b"]}}, 400, "could not get container for a: No such container: a"),
        ({"HostConfig": "text"}, 400, "invalid JSON: HostConfig must be an object"),
        ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}}}}, 400,
         "invalid endpoint settings: user-specified IP address is supported on user-defined networks only"),
    ],
)  # fmt: skip
def test_create_refuses(daemon: Daemon, body: dict[str, Any], status: int, message: str) -> None:
    reply = create(daemon, "refused", **body)
    assert reply.status == status, reply
    assert reply.body["message"].startswith(message)
    assert daemon.get("/containers/json", all=1).body == []
    assert not list(daemon.root.glob("containers/*")), "a directory was left"
    made(daemon, "refused")  # the name is free


def test_inspect_has_what_clients_read(daemon: Daemon) -> None:
    id = started(
        daemon, "box", Hostname="here", Env=["A=b"], Labels={"k": "v"},
        HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}},
    )  # fmt: skip
    for ref in (id, id[:12], "box"):
        assert daemon.get(f"/containers/{ref}/json").body["Id"] == id
    found = daemon.get(f"/containers/{id}/json").body
    assert found["Name"] == "/box"
    assert (found["Path"], found["Args"]) == ("sleep", ["1000"])
    assert found["State"]["Status"] == "running"
    assert found["Config"]["Hostname"] == "here"
    assert found["Config"]["Env"][0] == "A=b"
    assert found["HostConfig"]["NetworkMode"] == "bridge"
    settings = found["NetworkSettings"]
    assert settings["Ports"]["80/tcp"][0] == {"HostIp": "0.0.0.0", "HostPort": "8080"}
    assert settings["IPAddress"] == settings["Networks"]["bridge"]["IPAddress"] != ""
    assert settings["Gateway"] == "172.17.0.1"
    assert os.path.exists(settings["SandboxKey"])
    assert daemon.post("/containers/box/stop", t=0).status == 204
    settings = daemon.get("/containers/box/json").body["NetworkSettings"]
    assert settings["Ports"] == {}
    assert settings["SandboxKey"] == settings["IPAddress"] == ""


def test_state_changes_that_make_no_sense(daemon: Daemon) -> None:
    id = made(daemon, "box", HostConfig={"AutoRemove": False})
    assert daemon.post("/containers/box/stop").status == 304
    assert daemon.post("/containers/box/kill").status == 409
    assert daemon.post("/containers/box/pause").status == 409
    assert daemon.post("/containers/box/unpause").status == 409
    assert daemon.get("/containers/box/top").status == 409
    assert daemon.post("/containers/box/exec", {"Cmd": ["true"]}).body["message"] == f"container {id} is not running"
    assert daemon.post("/containers/box/start").status == 204
    assert daemon.post("/containers/box/start").status == 304
    refused = daemon.delete("/containers/box")
    assert refused.status == 409
    assert refused.body["message"] == (
        'cannot remove container "box": container is running: stop the container before removing or force remove'
    )
    assert daemon.post("/containers/box/kill", signal="NOPE").status == 400
    assert daemon.delete("/containers/box", link=1).body["message"].startswith("a link can not be removed by itself")
    assert daemon.post("/containers/box/wait", condition="nope").status == 400
    assert daemon.delete("/containers/box", force=1).status == 204
    assert daemon.delete("/containers/box", force=1).status == 404


@pytest.mark.parametrize(
    ("image_says", "signal", "goes_on"),
    [("", "USR1", True), ("TERM", "USR1", False), ("TERM", "TERM", True), ("", "KILL", True)],
)
def test_a_paused_container_gets_its_signal(daemon: Daemon, image_says: str, signal: str, goes_on: bool) -> None:
    """As moby has it (daemon/kill.go): what may end it resumes it, for a frozen process takes no signal."""
    script = "trap 'echo USR1' USR1; trap 'echo TERM; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    extra = {"StopSignal": image_says} if image_says else {}
    id = started(daemon, "box", Cmd=["sh", "-c", script], Tty=True, **extra)
    daemon.eventually(lambda: "ready" in daemon.pynet("logs", "box").stdout)
    assert daemon.post("/containers/box/pause").status == 204
    assert daemon.post("/containers/box/kill", signal=signal).status == 204
    if signal == "KILL":
        daemon.eventually(lambda: not daemon.get("/containers/box/json").body["State"]["Running"])
    elif goes_on:
        daemon.eventually(lambda: signal in daemon.pynet("logs", "box").stdout)
        daemon.eventually(lambda: daemon.get("/containers/box/json").body["State"]["Status"] != "paused")
    else:
        assert daemon.get("/containers/box/json").body["State"]["Paused"] is True
        assert daemon.post("/containers/box/unpause").status == 204
        daemon.eventually(lambda: signal in daemon.pynet("logs", "box").stdout)
    told = daemon.pynet("events", "--since", "0", "--until", str(time.time()), "--filter", f"container={id}").stdout
    assert " unpause " in told


def test_an_update_that_makes_no_sense_is_told_before_a_container_that_is_not_there(daemon: Daemon) -> None:
    """As moby does (daemon/update.go): the words are looked at first."""
    reply = daemon.post("/containers/nosuch/update", {"Memory": 1})
    assert reply.status == 400, reply
    assert reply.body["message"].startswith("Minimum memory limit allowed is 6MB")
    assert daemon.post("/containers/nosuch/update", {"Memory": 64 << 20}).status == 404


def test_names_and_prefixes(daemon: Daemon) -> None:
    first = made(daemon, "box")
    conflict = create(daemon, "box")
    assert conflict.status == 409
    assert conflict.body["message"] == (
        f'Conflict. The container name "/box" is already in use by container "{first}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    for name in ("a", "-x", "a b", "a/b", "ä"):
        reply = create(daemon, name)
        assert reply.body["message"] == f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    assert daemon.post("/containers/box/rename", name="").status == 400
    assert daemon.post("/containers/box/rename", name="box").status == 400
    made(daemon, "other")
    assert daemon.post("/containers/box/rename", name="other").status == 409
    assert daemon.get("/containers/box/json").status == 200


def test_wait_answers_its_head_before_the_exit(daemon: Daemon) -> None:
    made(daemon, "box", Cmd=["sh", "-c", "exit 6"])
    connection = daemon.connection()
    connection.request("POST", "/containers/box/wait?condition=next-exit")
    response = connection.getresponse()  # the head is here, the container has not even started
    assert daemon.post("/containers/box/start").status == 204
    assert json.loads(response.read()) == {"StatusCode": 6}
    connection.close()
    assert daemon.post("/containers/box/wait").body == {"StatusCode": 6}


def test_attach_carries_a_half_close(daemon: Daemon) -> None:
    made(daemon, "box", Cmd=["sort"], OpenStdin=True, StdinOnce=True)
    with _hijack(daemon, "/containers/box/attach?stream=1&stdin=1&stdout=1") as sock:
        assert daemon.post("/containers/box/start").status == 204
        sock.sendall(b"b\na\n")
        sock.shutdown(socket.SHUT_WR)
        assert stdout_of(_read_all(sock)) == b"a\nb\n"


def test_attach_without_upgrade_header(daemon: Daemon) -> None:
    made(daemon, "box", Cmd=["echo", "hi"])
    with _hijack(daemon, "/containers/box/attach?stream=1&stdout=1", upgrade=False) as sock:
        assert daemon.post("/containers/box/start").status == 204
        assert _read_all(sock) == b"\x01\0\0\0\0\0\0\x03hi\n"


def test_a_client_that_leaves_does_not_disturb(daemon: Daemon) -> None:
    started(daemon, "box")
    sockets = [_hijack(daemon, "/containers/box/attach?stream=1&stdin=1&stdout=1") for _ in range(5)]
    body = json.dumps({"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True})
    for _ in range(5):
        exec_id = daemon.post("/containers/box/exec", json.loads(body)).body["Id"]
        sockets.append(_hijack(daemon, f"/exec/{exec_id}/start", body="{}"))
    for sock in sockets:
        sock.close()
    logs = daemon.connection()
    logs.request("GET", "/containers/box/logs?follow=1&stdout=1")
    logs.getresponse()
    logs.close()
    assert daemon.get("/containers/box/json").body["State"]["Running"]
    assert daemon.get("/_ping").status == 200


def test_a_command_goes_on_without_its_client(daemon: Daemon) -> None:
    started(daemon, "box")
    for tty in (False, True):
        script = f"read x; for n in $(seq 20000); do echo line $n; done; echo made > /made{int(tty)}; sleep 1000"
        body = {"Cmd": ["sh", "-c", script], "AttachStdin": True, "AttachStdout": True, "Tty": tty}
        exec_id = daemon.post("/containers/box/exec", body).body["Id"]
        sock = _hijack(daemon, f"/exec/{exec_id}/start", body="{}")
        sock.sendall(b"go\n")
        assert sock.recv(1)
        sock.close()
        upper = next(daemon.root.glob("containers/*/upper"))
        daemon.eventually((upper / f"made{int(tty)}").exists)
        assert daemon.get(f"/exec/{exec_id}/json").body["Running"] is True


def _hijack(daemon: Daemon, path: str, *, upgrade: bool = True, body: str = "") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(daemon.socket)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    if upgrade:
        head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
    sock.sendall(f"{head}\r\n{body}".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 UPGRADED\r\n" if upgrade else b"HTTP/1.1 200 OK\r\n"), answer
    return sock


def stdout_of(frames: bytes) -> bytes:
    """What is in the frames of stdout; pieces of a stream are framed as they come."""
    data = b""
    while frames:
        length = int.from_bytes(frames[4:8], "big")
        assert frames[0] == 1, frames
        data, frames = data + frames[8 : 8 + length], frames[8 + length :]
    return data


def _read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def test_list_filters(daemon: Daemon) -> None:
    one = started(daemon, "one", Labels={"tier": "web"})
    two = made(daemon, "two", Labels={"tier": "db"})

    def listed(**query: Any) -> list[str]:
        return [entry["Id"] for entry in daemon.get("/containers/json", **query).body]

    assert listed() == [one]
    assert listed(all=1) == [two, one]
    assert listed(limit=1) == [two]
    for filters, expected in (
        ({"name": ["tw"]}, [two]),
        ({"label": ["tier"]}, [two, one]),
        ({"label": ["tier=db"]}, [two]),
        ({"status": ["created"]}, [two]),
        ({"id": [one[:8]]}, [one]),
        ({"ancestor": ["busybox"]}, [two, one]),
        ({"ancestor": ["nosuch"]}, []),
        ({"before": ["two"]}, [one]),
        ({"since": ["one"]}, [two]),
        ({"network": ["bridge"]}, [two, one]),
        ({"name": {"one": True}}, [one]),
    ):
        assert listed(all=1, filters=filters) == expected, filters


def test_auto_remove(daemon: Daemon) -> None:
    id = made(daemon, Cmd=["true"], HostConfig={"AutoRemove": True}, Volumes={"/data": {}})
    assert len(daemon.get("/volumes").body["Volumes"]) == 1
    connection = daemon.connection()
    connection.request("POST", f"/containers/{id}/wait?condition=removed")
    response = connection.getresponse()
    assert daemon.post(f"/containers/{id}/start").status == 204
    assert json.loads(response.read()) == {"StatusCode": 0}
    connection.close()
    assert daemon.get(f"/containers/{id}/json").status == 404
    assert daemon.get("/volumes").body["Volumes"] == []


def test_a_failed_start_leaves_nothing_in_the_way(daemon: Daemon) -> None:
    taken = socket.create_server(("0.0.0.0", 8080))
    id = made(
        daemon, "box", HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "8080"}], "81/tcp": [{"HostPort": "8081"}]}}
    )
    refused = daemon.post("/containers/box/start")
    assert refused.status == 500
    assert refused.body["message"].startswith(
        "failed to set up container networking: driver failed programming external connectivity on endpoint box ("
    )
    assert refused.body["message"].endswith("failed to bind host port 0.0.0.0:8080/tcp: address already in use")
    assert daemon.get("/containers/box/json").body["State"]["Status"] == "created"
    assert daemon.get("/networks/bridge").body["Containers"] == {}
    assert daemon.get("/pynet/check").body == []
    socket.create_server(("0.0.0.0", 8081)).close()
    taken.close()
    assert daemon.post(f"/containers/{id}/start").status == 204


# -- networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"Name": "bridge"}, 403, "operation is not permitted on predefined bridge network"),
        ({"Name": "default"}, 403, "operation is not permitted on predefined default network"),
        ({"Name": " "}, 400, "invalid network name: name is empty"),
        (
            {"Name": "x", "Driver": "nosuch"},
            404,
            "could not find plugin nosuch in v1 plugin registry: plugin not found",
        ),
        ({"Name": "x", "Scope": "swarm"}, 403, "cannot create a swarm scoped network when swarm is not active"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "nonsense"}]}}, 400, ""),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.5.0.0/24", "Gateway": "10.6.0.1"}]}}, 400, ""),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "172.17.0.0/16"}]}}, 403, ""),
        ({"Name": "x", "IPAM": {"Driver": "nosuch"}}, 404, "could not find plugin nosuch"),
        ({"Name": "x", "EnableIPv4": False}, 400, "IPv4 or IPv6 must be enabled"),
        ({"Name": "x", "Options": {"com.docker.network.driver.mtu": "small"}}, 400, ""),
    ],
)
def test_network_create_refuses(daemon: Daemon, body: dict[str, Any], status: int, message: str) -> None:
    reply = daemon.post("/networks/create", body)
    assert reply.status == status, reply
    assert reply.body["message"].startswith(message)
    assert len(daemon.get("/networks").body) == 3


def test_network_errors(daemon: Daemon) -> None:
    assert daemon.post("/networks/create", {"Name": "mine"}).status == 201
    again = daemon.post("/networks/create", {"Name": "mine"})
    assert (again.status, again.body["message"]) == (409, "network with name mine already exists")
    predefined = daemon.delete("/networks/host")
    assert (predefined.status, predefined.body["message"]) == (
        403,
        "host is a pre-defined network and cannot be removed",
    )
    started(daemon, "box", HostConfig={"NetworkMode": "mine"})
    assert daemon.delete("/networks/mine").status == 403
    twice = daemon.post("/networks/mine/connect", {"Container": "box"})
    assert (twice.status, twice.body["message"]) == (403, "endpoint with name box already exists in network mine")
    assert daemon.post("/networks/mine/connect", {"Container": "nosuch"}).status == 404
    assert daemon.post("/networks/mine/connect", {}).status == 400
    id = daemon.get("/containers/box/json").body["Id"]
    absent = daemon.post("/networks/bridge/disconnect", {"Container": "box"})
    assert (absent.status, absent.body["message"]) == (500, f"container {id} is not connected to network bridge")
    outside = daemon.post(
        "/networks/bridge/connect", {"Container": "box", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.9.9.9"}}}
    )
    assert outside.status == 400
    assert daemon.get("/containers/box/json").body["NetworkSettings"]["Networks"].keys() == {"mine"}


def test_a_static_address_that_is_taken(daemon: Daemon) -> None:
    body = {"Name": "mine", "IPAM": {"Config": [{"Subnet": "10.88.0.0/24"}]}}
    assert daemon.post("/networks/create", body).status == 201
    config = {"EndpointsConfig": {"mine": {"IPAMConfig": {"IPv4Address": "10.88.0.7"}}}}
    options = {"HostConfig": {"NetworkMode": "mine"}, "NetworkingConfig": config}
    started(daemon, "one", **options)
    made(daemon, "two", **options)
    refused = daemon.post("/containers/two/start")
    assert refused.status == 403
    assert "Address already in use" in refused.body["message"]
    assert daemon.delete("/containers/one", force=1).status == 204
    assert daemon.post("/containers/two/start").status == 204


# -- events and volumes ------------------------------------------------------------------------------------------


def test_events_are_streamed_in_order(daemon: Daemon) -> None:
    connection = daemon.connection()
    connection.request("GET", '/events?filters={"type":["container"]}'.replace('"', "%22"))
    response = connection.getresponse()
    id = started(daemon, "box")
    daemon.delete("/containers/box", force=1)
    actions: list[str] = []
    last = 0
    while "destroy" not in actions:
        event = json.loads(response.readline())
        assert event["Actor"]["ID"] == event["id"] == id
        assert event["timeNano"] > last
        last = event["timeNano"]
        actions.append(event["Action"])
    connection.close()
    assert actions == ["create", "start", "die", "destroy"]


def test_volumes(daemon: Daemon) -> None:
    reply = daemon.post("/volumes/create", {"Name": "data", "Labels": {"a": "b"}})
    assert reply.status == 201
    assert os.path.isdir(reply.body["Mountpoint"])
    assert daemon.post("/volumes/create", {"Name": "a/b"}).status == 400
    assert daemon.post("/volumes/create", {"Name": "x", "Driver": "nosuch"}).status == 404
    id = made(daemon, "box", HostConfig={"Binds": ["data:/data"]})
    refused = daemon.delete("/volumes/data")
    assert (refused.status, refused.body["message"]) == (409, f"remove data: volume is in use - [{id}]")
    assert daemon.get("/volumes", filters={"dangling": ["true"]}).body["Volumes"] == []
    daemon.delete("/containers/box")
    assert daemon.delete("/volumes/data").status == 204
    assert daemon.delete("/volumes/data", force=1).status == 204


# -- numbers and bytes that make no sense ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/containers/box/stop?t=9223372036854775807",
            'strconv.Atoi: parsing "9223372036854775807": value out of range',
        ),
        ("/containers/box/restart?t=" + "9" * 5000, "strconv.Atoi: parsing"),
        ("/containers/box/stop?t=1_0", 'strconv.Atoi: parsing "1_0": invalid syntax'),
        ("/containers/box/stop?t=%D9%A3", 'strconv.Atoi: parsing "٣": invalid syntax'),
        ("/containers/box/resize?h=65536&w=1", 'invalid resize height "65536": value out of range'),
        ("/containers/box/resize?h=1&w=-1", 'invalid resize width "-1": value out of range'),
        ("/containers/box/resize?h=x&w=1", 'invalid resize height "x": invalid syntax'),
        ("/containers/box/resize", 'invalid resize height "": invalid syntax'),
        ("/containers/box/kill?signal=%00", "invalid value for signal: it has NUL bytes"),
        ("/containers/box/rename?name=a%00b", "invalid value for name: it has NUL bytes"),
    ],
)
def test_parameters_out_of_bounds(daemon: Daemon, path: str, message: str) -> None:
    started(daemon, "box")
    reply = daemon.post(path)
    assert reply.status == 400, reply
    assert reply.body["message"].startswith(message)
    assert daemon.get("/containers/box/json").body["State"]["Running"]


def test_a_long_patience_is_no_accident(daemon: Daemon) -> None:
    """More milliseconds than an int has."""
    started(daemon, "box", Cmd=["sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"], Tty=True)
    daemon.eventually(lambda: "ready" in daemon.get("/containers/box/logs", stdout=1).body)
    assert daemon.post("/containers/box/stop", t=2_000_000_000).status == 204
    assert daemon.get("/containers/box/json").body["State"]["ExitCode"] == 3
    refused = create(daemon, StopTimeout=1 << 40)
    assert (refused.status, refused.body["message"]) == (
        400,
        "invalid JSON: StopTimeout must be from -2147483647 to 2147483647",
    )


def test_bytes_that_are_not_what_they_are_called(daemon: Daemon) -> None:
    started(daemon, "box")
    for encoding in ("gzip", "deflate", "br"):
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        reply = daemon.request("POST", "/networks/create", b'{"Name": "mine"}', headers=headers)
        assert reply.status == 400, (encoding, reply)
    reply = daemon.get("/containers/box/top?ps_args=%00")
    assert (reply.status, reply.body["message"]) == (400, "invalid value for ps_args: it has NUL bytes")
    assert create(daemon, "fine", HostConfig={"DeviceRequests": []}).status == 201
    assert "Traceback" not in daemon.log()


# -- options that were dropped once ------------------------------------------------------------------------------


def test_nothing_is_dropped_in_silence(daemon: Daemon) -> None:
    reply = create(
        daemon, "box", Healthcheck={"Test": ["CMD", "true"]},
        HostConfig={"MemoryReservation": 1 << 30, "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}, "Slip": 1},
    )  # fmt: skip
    assert reply.status == 201
    for word in ("Healthcheck", "MemoryReservation", "max-size", "HostConfig.Slip"):
        assert any(word in warning for warning in reply.body["Warnings"]), (word, reply)
    assert daemon.get("/containers/box/json").body["Config"]["Healthcheck"] == {"Test": ["CMD", "true"]}
    mount = {"Type": "volume", "Source": "data", "Target": "/d"}
    options = {"DriverConfig": {"Name": "local", "Options": {"type": "nfs", "device": ":/x"}}}
    refused = create(daemon, HostConfig={"Mounts": [{**mount, "VolumeOptions": options}]})
    assert (refused.status, refused.body["message"]) == (400, "the local volume driver takes no options here")
    assert daemon.get("/volumes").body["Volumes"] == []
    made(daemon, "other", HostConfig={"Mounts": [{**mount, "VolumeOptions": {"Labels": {"a": "b"}}}]})
    assert daemon.get("/volumes/data").body["Labels"] == {"a": "b"}
    warned = daemon.post("/networks/create", {"Name": "mine", "Slip": 1}).body["Warning"]
    assert warned == "Slip has no effect: it is no field that this engine knows"
    started(daemon, "third")
    updated = daemon.post("/containers/third/update", {"Memory": 64 << 20, "BlkioWeight": 100})
    assert len(updated.body["Warnings"]) == 2, updated


def test_options_that_a_process_can_see(daemon: Daemon) -> None:
    script = "cat /proc/sys/kernel/domainname; ls /sys/class/net; stty size; hostname"
    started(
        daemon, "box", Cmd=["sh", "-c", script], Tty=True, Hostname="here", Domainname="example.org", NetworkDisabled=True,
        HostConfig={"ConsoleSize": [33, 77]},
    )  # fmt: skip
    assert daemon.post("/containers/box/wait").body == {"StatusCode": 0}
    said = daemon.get("/containers/box/logs", stdout=1).body.split()
    assert said[0] == "example.org"
    assert "eth0" not in said
    assert said[-1] == "here"
    inspected = daemon.get("/containers/box/json").body
    assert inspected["HostConfig"]["ConsoleSize"] == [33, 77]
    assert list(inspected["NetworkSettings"]["Networks"]) == ["none"]


def test_a_container_without_a_log(daemon: Daemon) -> None:
    host = {"LogConfig": {"Type": "none"}}
    id = started(daemon, "box", Cmd=["sh", "-c", "echo said; exit 4"], HostConfig=host)
    assert daemon.post("/containers/box/wait").body == {"StatusCode": 4}
    log = daemon.root / "containers" / id / "log.json"
    assert not log.exists() or log.stat().st_size == 0
    assert daemon.get("/containers/box/logs", stdout=1).status == 400


# -- names ---------------------------------------------------------------------------------------------------------


def hosts_of(daemon: Daemon, id: str) -> list[str]:
    lines = (daemon.root / "containers" / id / "hosts").read_text().splitlines()
    return [line for line in lines if "localhost" not in line and "ip6" not in line]


def test_a_container_knows_itself_and_the_others(daemon: Daemon) -> None:
    daemon.post("/networks/create", {"Name": "mine", "IPAM": {"Config": [{"Subnet": "10.88.0.0/24"}]}})
    one = started(daemon, "one", HostConfig={"NetworkMode": "mine"}, Hostname="first")
    two = started(daemon, "two", HostConfig={"NetworkMode": "mine"})
    assert hosts_of(daemon, one) == ["10.88.0.2\tfirst"]
    assert hosts_of(daemon, two) == [f"10.88.0.3\t{two[:12]}"]
    for name in ("one", "two", "first", "two.mine", two[:12]):
        reply = daemon.post("/containers/one/exec", {"Cmd": ["ping", "-c1", name]})
        daemon.post(f"/exec/{reply.body['Id']}/start", {})
        assert daemon.get(f"/exec/{reply.body['Id']}/json").body["ExitCode"] == 0, name
    assert daemon.post("/containers/two/rename", name="three").status == 204
    for name, code in (("three", 0), ("two", 1)):
        reply = daemon.post("/containers/one/exec", {"Cmd": ["ping", "-c1", name]})
        daemon.post(f"/exec/{reply.body['Id']}/start", {})
        assert daemon.get(f"/exec/{reply.body['Id']}/json").body["ExitCode"] == code, name


def test_a_restart_of_a_container_that_is_removed_at_its_end(daemon: Daemon) -> None:
    for _ in range(20):  # its end and its next start raced
        id = started(daemon, "box", HostConfig={"AutoRemove": True})
        assert daemon.post("/containers/box/restart", t=0).status == 204
        inspected = daemon.get(f"/containers/{id}/json")
        assert inspected.status == 200
        assert inspected.body["State"]["Running"]
        assert daemon.post("/containers/box/kill").status == 204
        daemon.eventually(lambda: daemon.get(f"/containers/{id}/json").status == 404, "--rm is forgotten")  # noqa: B023


def test_a_removed_container_does_not_come_back(daemon: Daemon) -> None:
    """A rename, a connect and a disconnect that lose against a removal must not write its record again."""
    daemon.post("/networks/create", {"Name": "mine"})
    for turn in range(20):
        name = f"box{turn}"
        id = made(daemon, name)
        others = [
            threading.Thread(target=daemon.post, args=(path, body))
            for path, body in (
                ("/networks/mine/connect", {"Container": id}),
                ("/networks/mine/disconnect", {"Container": id, "Force": True}),
                (f"/containers/{id}/rename?name=other{turn}", None),
            )
        ]
        for thread in others:
            thread.start()
        daemon.delete(f"/containers/{id}", force=1)
        for thread in others:
            thread.join()
    daemon.terminate()
    assert daemon.start() == "1"
    assert daemon.get("/containers/json", all=1).body == []
    for turn in range(20):
        made(daemon, f"box{turn}")  # every name is free
