"""Create requests: what is accepted, what it becomes, and what is refused with which words.  No daemon."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.engine.container.config import (
    check_name,
    command_line,
    complete_config,
    merge_env,
    parse_signal,
)
from pynet.engine.container.confinement import capabilities, security
from pynet.engine.container.endpoints import endpoint_settings, requested_networks
from pynet.engine.container.hostconfig import complete_host_config, port_bindings, resource_update, restart_policy
from pynet.engine.container.mounts import MountPoint, inspect_mounts, parse_all, parse_bind, parse_mount
from pynet.engine.container.names import random_name
from pynet.engine.container.record import Container
from pynet.engine.container.specs import build_spec
from pynet.engine.fields import Fields
from pynet.engine.filters import Filters
from pynet.netlib.errors import InvalidArgument, PynetError
from pynet.runtime.grammar.capabilities import NAMES
from pynet.runtime.spec import DEFAULT_CAPABILITIES, ContainerSpec

IMAGE: dict[str, Any] = {
    "Cmd": ["server"],
    "Entrypoint": ["/entry"],
    "Env": ["PATH=/bin", "MODE=image"],
    "ExposedPorts": {"80/tcp": {}},
    "Labels": {"of": "image", "kept": "1"},
    "User": "web",
    "WorkingDir": "/srv",
    "StopSignal": "SIGQUIT",
}


def refusal(body: dict[str, Any]) -> str:
    with pytest.raises(InvalidArgument) as caught:
        complete_host_config(body)
    return str(caught.value)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"080": [{"HostPort": "1"}]}, {"80/tcp": [{"HostPort": "1"}]}),
        ({"80/": None, "80/TCP": []}, {"80/tcp": [{}, {}]}),
        (
            {"80/tcp": [{"HostPort": "1"}], "80": [{"HostPort": "2"}]},
            {"80/tcp": [{"HostPort": "1"}, {"HostPort": "2"}]},
        ),
    ],
)
def test_a_published_port_has_one_name_however_it_was_written(asked: dict[str, Any], kept: dict[str, Any]) -> None:
    """Inspect and ps would else show a port without a protocol beside the one that is published."""
    assert complete_host_config({"PortBindings": asked}).config["PortBindings"] == kept


# -- Config ------------------------------------------------------------------------------------------------------


def test_the_image_fills_what_the_request_leaves_out() -> None:
    config = complete_config({"Image": "x"}, IMAGE, "abcdef")
    assert command_line(config) == ["/entry", "server"]
    assert config["Env"] == ["PATH=/bin", "MODE=image"]
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("web", "/srv", "SIGQUIT")
    assert config["ExposedPorts"] == {"80/tcp": {}}
    assert config["Hostname"] == "abcdef"


def test_the_request_wins_over_the_image() -> None:
    body = {"Cmd": ["mine"], "Env": ["MODE=own", "NEW=1"], "Labels": {"of": "request"}, "ExposedPorts": {"53/udp": {}}}
    config = complete_config(body, IMAGE, "h")
    assert command_line(config) == ["/entry", "mine"]
    assert config["Env"] == ["MODE=own", "NEW=1", "PATH=/bin"]
    assert config["Labels"] == {"of": "request", "kept": "1"}
    assert set(config["ExposedPorts"]) == {"80/tcp", "53/udp"}


def test_a_new_entrypoint_makes_the_images_command_meaningless() -> None:
    assert command_line(complete_config({"Entrypoint": ["/own"]}, IMAGE, "h")) == ["/own"]
    assert command_line(complete_config({"Entrypoint": "/own", "Cmd": "arg"}, IMAGE, "h")) == ["/own", "arg"]
    assert command_line(complete_config({"Entrypoint": [""], "Cmd": ["sh"]}, IMAGE, "h")) == ["sh"]


def test_nothing_to_run() -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        complete_config({}, {}, "h")


def test_an_environment_without_value_hides_the_images() -> None:
    assert merge_env(["A=1", "B=2"], ["A"]) == ["A", "B=2"]


@pytest.mark.parametrize("name", ["box", "/box", "a1", "A.b-c_d", "0x"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name.lstrip("/")


@pytest.mark.parametrize("name", ["a", "/", "-ab", ".ab", "a b", "a/b", "ab\n", "ä1", "//ab"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match="only \\[a-zA-Z0-9\\]"):
        check_name(name)


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "NOPE", "SIG", "RTMIN+99", "SIGRTMIN-1", "__class__", "SIG_DFL"])
def test_no_signals(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal"):
        parse_signal(text)


def test_every_signal_of_this_kernel_has_a_name() -> None:
    for one in signal.Signals:
        assert parse_signal(one.name) == one.value


def test_exposed_ports() -> None:
    body = {"Image": "x", "Cmd": ["x"], "ExposedPorts": {"80": {}, "80-82/UDP": {}}}
    assert list(complete_config(body, {}, "h")["ExposedPorts"]) == ["80/tcp", "80/udp", "81/udp", "82/udp"]
    with pytest.raises(InvalidArgument, match="invalid range format for ExposedPorts: 0/tcp"):
        complete_config({**body, "ExposedPorts": {"0/tcp": {}}}, {}, "h")


# -- HostConfig --------------------------------------------------------------------------------------------------


def test_defaults_have_every_key_that_an_inspect_shows() -> None:
    config, warnings, _ = complete_host_config(None)
    assert warnings == []
    assert config["NetworkMode"] == "bridge"
    assert config["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert config["ShmSize"] == 64 << 20
    for key in ("Binds", "PortBindings", "CapAdd", "Dns", "Memory", "NanoCpus", "PidsLimit", "Ulimits", "LogConfig"):
        assert key in config
    assert complete_host_config(config)[0] == config, "an inspect's HostConfig can be sent back"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"Memory": 100}, "Minimum memory limit allowed is 6MB"),
        ({"Memory": -1}, "Minimum memory limit allowed is 6MB"),
        ({"MemorySwap": 1 << 30}, "You should always set the Memory limit"),
        ({"Memory": 1 << 30, "MemorySwap": 1 << 20}, "Minimum memoryswap limit should be larger"),
        ({"NanoCpus": 1, "CpuQuota": 1}, "Conflicting options: Nano CPUs"),
        ({"CpuPeriod": 5}, "CPU cfs period can not be less than 1ms"),
        ({"CpusetCpus": "zero"}, "Invalid value zero for cpuset cpus"),
        ({"Dns": ["nope"]}, "invalid DNS address: nope"),
        ({"ExtraHosts": ["nohost"]}, "invalid extra host"),
        ({"ExtraHosts": ["a:nope"]}, 'invalid IP address in add-host: "nope"'),
        ({"SecurityOpt": ["what"]}, 'invalid --security-opt 2: "what"'),
        ({"SecurityOpt": ["seccomp={}"]}, "Decoding seccomp profile failed: it has no defaultAction"),
        ({"SecurityOpt": ["seccomp=/a/file"]}, "Decoding seccomp profile failed: Expecting value"),
        ({"Sysctls": {"net.ipv4.ip_forward": "1"}, "NetworkMode": "host"}, "not allowed in host network namespace"),
        ({"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, "ulimit soft limit must be less"),
        ({"Ulimits": [{"Name": "nofile", "Soft": -1, "Hard": 1}]}, "ulimit soft limit must be less"),
        ({"OomScoreAdj": 1001}, "Invalid value 1001"),
        ({"PidMode": "host"}, "PidMode 'host' is not supported"),
        ({"VolumesFrom": ["x"]}, "volumes-from is not supported"),
        ({"Memory": "1g"}, "invalid JSON: HostConfig.Memory must be a whole number"),
        ({"Memory": True}, "invalid JSON: HostConfig.Memory must be a whole number"),
        ({"Memory": 1 << 70}, "invalid JSON: HostConfig.Memory must be a number of 64 bits"),
        ({"Binds": ["a\0b"]}, "without NUL bytes"),
        ({"Sysctls": {"net.ipv4.ip_forward": "1\0"}}, "without NUL bytes"),
        ({"SecurityOpt": ["seccomp=" + "[" * 100_000]}, "Decoding seccomp profile failed: "),
        ({"MemorySwappiness": {"a": 1}}, "HostConfig.MemorySwappiness must be a whole number"),
        ({"ExtraHosts": ["a\n1.2.3.4 b:1.1.1.1"]}, "invalid extra host"),
        ({"DnsSearch": ["a\nnameserver 1.1.1.1"]}, "HostConfig.DnsSearch must be a list of names"),
    ],
)
def test_host_config_refuses(body: dict[str, Any], message: str) -> None:
    assert message in refusal(body)


def test_restart_policies() -> None:
    assert restart_policy(Fields({"Name": "on-failure", "MaximumRetryCount": 3}))["MaximumRetryCount"] == 3
    for body, message in (
        ({"Name": "sometimes"}, "unknown policy 'sometimes'"),
        ({"Name": "always", "MaximumRetryCount": 3}, "can only be used with 'on-failure'"),
        ({"Name": "on-failure", "MaximumRetryCount": -1}, "cannot be negative"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            restart_policy(Fields(body))


def test_capabilities() -> None:
    assert set(capabilities([], [])) == set(DEFAULT_CAPABILITIES)
    assert capabilities(["cap_net_admin"], ["ALL"]) == ["NET_ADMIN"]
    assert "CHOWN" not in capabilities(["ALL"], ["CHOWN"])
    assert len(capabilities(["ALL"], [])) == len(NAMES) == 41
    assert capabilities([], [], privileged=True) == list(NAMES)
    assert capabilities(["ALL"], ["ALL"]) == []


def test_security_options() -> None:
    assert security(["no-new-privileges", "seccomp=unconfined"]) == (True, "unconfined", False, [])
    assert security(["no-new-privileges:false"])[0] is False
    assert security(['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}'])[1] == '{"defaultAction": "SCMP_ACT_ALLOW"}'
    assert "apparmor" in security(["apparmor=x"])[3][0]


def test_an_update_takes_only_what_is_given() -> None:
    assert resource_update({"Memory": 1 << 30, "CpuShares": 0})[0] == {"Memory": 1 << 30}
    assert resource_update({"RestartPolicy": {"Name": "always"}})[0]["RestartPolicy"]["Name"] == "always"
    assert resource_update({"RestartPolicy": {"Name": ""}}) == ({}, [])


# -- mounts ------------------------------------------------------------------------------------------------------


def test_binds() -> None:
    assert parse_bind("/a/../b:/c:ro") == MountPoint("bind", "/c", "/b", readonly=True, mode="ro", create=True)
    assert parse_bind("data:/c") == MountPoint("volume", "/c", name="data")
    assert parse_bind("/c") == MountPoint("volume", "/c", anonymous=True)
    assert parse_bind("/a:/c:rslave,z").propagation == "rslave"


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":/b", "/a:b", "/a:/", "/a:/b:c", "/a:/b:ro,rw", "a b:/c", "../a:/b", "/a:/b:ro:x"]
)
def test_binds_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_bind(text)


def test_mount_objects() -> None:
    bind = parse_mount(Fields({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}))
    assert (bind.kind, bind.create, bind.readonly) == ("bind", False, True)
    tmpfs = parse_mount(Fields({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 5, "Mode": 0o700}}))
    assert tmpfs.options == "size=5,mode=700"
    for body in (
        {"Type": "bind", "Target": "/b"},
        {"Type": "bind", "Source": "rel", "Target": "/b"},
        {"Type": "tmpfs", "Source": "x", "Target": "/b"},
        {"Type": "nope", "Target": "/b"},
        {"Type": "bind", "Source": "/a", "Target": "/b", "TmpfsOptions": {"SizeBytes": 1}},
        {"Type": "tmpfs", "Target": "/b", "VolumeOptions": {"NoCopy": True}},
        {"Type": "volume", "Target": ""},
        {"Type": "volume", "Target": "rel"},
    ):
        with pytest.raises(InvalidArgument, match="invalid mount config for type"):
            parse_mount(Fields(body))


def test_a_mount_below_another_comes_after_it_and_images_volumes_give_way() -> None:
    points = parse_all(["/x:/a/b/c", "/y:/a"], [], {"/t": ""}, ["/a", "/v"])
    assert [point.target for point in points] == ["/a", "/t", "/v", "/a/b/c"]
    assert next(point for point in points if point.target == "/a").kind == "bind"
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /a"):
        parse_all(["/x:/a"], [], {"/a/": ""}, [])


def test_mounts_as_inspect_shows_them() -> None:
    shown = inspect_mounts([parse_bind("data:/d"), parse_bind("/a:/b:ro")], lambda name: f"/vol/{name}/_data")
    assert shown[0]["Source"] == "/vol/data/_data"
    assert (shown[1]["Type"], shown[1]["RW"], shown[1]["Propagation"]) == ("bind", False, "rprivate")


# -- networks ----------------------------------------------------------------------------------------------------


def test_the_network_mode_comes_first_and_gets_its_settings() -> None:
    body = {
        "EndpointsConfig": {"other": {}, "mine": {"Aliases": ["x", "x"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}}}
    }
    networks = requested_networks("mine", body, "02:00:00:00:00:01")
    assert list(networks) == ["mine", "other"]
    assert networks["mine"]["Aliases"] == ["x"]
    assert networks["mine"]["IPAMConfig"] == {"IPv4Address": "10.0.0.5"}
    assert networks["mine"]["MacAddress"] == "02:00:00:00:00:01"
    assert networks["other"]["IPAMConfig"] is None, "nothing was asked for"
    assert list(requested_networks("bridge", {"EndpointsConfig": {"default": None}})) == ["bridge"]


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("host", {"other": {}}),
        ("none", {"other": {}}),
        ("container:abc", {"other": {}}),
        ("bridge", {"bridge": {"Aliases": ["x"]}}),
        ("mine", {"mine": "text"}),
        ("mine", {"mine": {"Aliases": ["a\n10.0.0.1 elsewhere"]}}),
        ("mine", {"mine": {"Aliases": ["#a"]}}),
        ("mine", {"mine": {"Aliases": [""]}}),
        ("mine", {"mine": {"Aliases": ["\udcff"]}}),
    ],
)
def test_network_settings_that_make_no_sense(mode: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        requested_networks(mode, {"EndpointsConfig": settings})


@pytest.mark.parametrize(
    "body",
    [
        {"Domainname": "a\n1.2.3.4 b"},
        {"Volumes": {"/a\0b": {}}},
        {"Healthcheck": {"Test": "true"}},
        {"Healthcheck": {"Interval": "1s"}},
    ],
)
def test_what_could_not_be_written_down_or_read_again_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        complete_config(body, IMAGE, "h")


# -- filters -----------------------------------------------------------------------------------------------------


def test_filters_in_both_shapes() -> None:
    for text in ('{"label": {"a": true, "b=1": true, "c": false}}', '{"label": ["a", "b=1"]}'):
        filters = Filters.parse(text)
        assert filters.values("label") == ["a", "b=1"]
        assert filters.labels({"a": "", "b": "1"})
        assert not filters.labels({"a": "", "b": "2"})
    assert not Filters.parse("")
    with pytest.raises(InvalidArgument, match="invalid filter 'x'"):
        Filters.parse('{"x": ["y"]}').allow({"z"})


@pytest.mark.parametrize("text", ["[]", "5", "{", '{"a": 5}', "null", "[" * 10000])
def test_filters_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        Filters.parse(text)


# -- spec --------------------------------------------------------------------------------------------------------


def container(**host: Any) -> Container:
    judged = complete_host_config(host)
    return Container(
        id="ab" * 32,
        name="box",
        created=1.0,
        image_id="sha256:x",
        config=complete_config({"Tty": True, "StopTimeout": 3}, IMAGE, "abab"),
        host_config=judged.config,
        bindings=port_bindings({}, judged.config),
        confinement=judged.confinement,
        rootfs={"lower": ["/l"], "upper": "/u", "work": "/w", "readonly": False},
        mounts=[parse_bind("/a:/b:ro"), MountPoint("tmpfs", "/t", options="size=1m")],
        networks={},
    )


def spec_of(made: Container) -> ContainerSpec:
    return build_spec(
        made, netns="/ns", cgroup_parent="pynet", log="/log", files={"/etc/hosts": "/h"}, volume_path=lambda name: name
    )


def test_the_spec_has_every_key_of_the_contract() -> None:
    spec = spec_of(container())
    assert set(spec) == set(ContainerSpec.__annotations__)
    assert spec["args"] == ["/entry", "server"]
    assert spec["hostname"] == "abab" and not [word for word in spec["env"] if word.startswith(("HOSTNAME=", "TERM="))]
    assert spec["cgroup"] == f"pynet/{'ab' * 32}"
    assert (spec["stop_signal"], spec["stop_timeout"]) == (signal.SIGQUIT, 3)
    assert [mount["target"] for mount in spec["mounts"]] == ["/etc/hosts", "/b", "/t"]
    assert spec["masked_paths"]


def test_a_privileged_container_has_no_masks() -> None:
    spec = spec_of(container(Privileged=True))
    assert (spec["masked_paths"], spec["readonly_paths"], spec["seccomp"]) == ([], [], "unconfined")
    assert len(spec["capabilities"]) == 41


def test_cpu_quota_and_nano_cpus_mean_the_same() -> None:
    assert spec_of(container(CpuQuota=50_000))["limits"]["nano_cpus"] == 500_000_000
    assert spec_of(container(NanoCpus=500_000_000))["limits"]["nano_cpus"] == 500_000_000


def test_a_record_survives_the_store() -> None:
    made = container(AutoRemove=True)
    made.change(status="running")
    again = Container.from_body(made.to_body())
    assert again == made
    assert spec_of(again) == spec_of(made)


# -- nothing that a client sends is an accident ---------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CONFIG_KEYS = st.sampled_from(
    ("Hostname", "User", "Env", "Cmd", "Entrypoint", "Labels", "Volumes", "ExposedPorts", "WorkingDir", "StopSignal")
)
HOST_KEYS = st.sampled_from(
    (
        "Binds", "PortBindings", "RestartPolicy", "Memory", "NanoCpus", "CapAdd", "Dns", "ExtraHosts", "Sysctls",
        "Ulimits", "Devices", "LogConfig", "ShmSize", "SecurityOpt", "NetworkMode", "AutoRemove", "PidsLimit",
    )
)  # fmt: skip


@given(st.dictionaries(CONFIG_KEYS, JSON, max_size=4))
def test_any_config_is_taken_or_refused(body: dict[str, Any]) -> None:
    try:
        config = complete_config(body, IMAGE, "h")
    except PynetError:
        return
    assert command_line(config)


@given(st.dictionaries(HOST_KEYS, JSON, max_size=4))
def test_any_host_config_is_taken_or_refused(body: dict[str, Any]) -> None:
    try:
        config = complete_host_config(body).config
        parse_all(config["Binds"] or [], [], {}, [])
    except PynetError:
        return
    assert complete_host_config(config)[0] == config


@given(JSON)
def test_any_endpoint_settings_are_taken_or_refused(body: Any) -> None:
    try:
        endpoint_settings(body)
    except PynetError:
        return


def test_random_names_avoid_the_taken() -> None:
    seen: set[str] = set()
    for _ in range(500):
        seen.add(random_name(seen.__contains__))
    assert len(seen) == 500
    assert all(check_name(name) == name for name in seen)
