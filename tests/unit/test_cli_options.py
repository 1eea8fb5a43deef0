"""Options of ``run`` and ``create`` -> the body that Docker's client would send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pynet.cli.commands import network
from pynet.cli.commands import run as run_command
from pynet.cli.options import container_config, gather
from pynet.cli.parser import Parser
from pynet.cli.units import parse_cpus, parse_duration, parse_moment, parse_size
from pynet.engine import events, images, networks
from pynet.engine.container import listing
from pynet.netlib.errors import InvalidArgument


def body_of(*words: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    parser = Parser("run", "")
    run_command.run(parser)
    args = parser.parse([*words])
    assert args is not None
    return container_config(gather(args, environ or {}))


def host_of(*words: str) -> dict[str, Any]:
    host: dict[str, Any] = body_of(*words, "image")["HostConfig"]
    return host


def test_the_main_job() -> None:
    body = body_of("-d", "-p", "8080:80", "--name", "web", "busybox", "httpd", "-f", "-p", "80")
    assert body["Image"] == "busybox"
    assert body["Cmd"] == ["httpd", "-f", "-p", "80"]
    assert body["ExposedPorts"] == {"80/tcp": {}}
    assert body["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    assert not (body["AttachStdin"] or body["AttachStdout"] or body["AttachStderr"])
    assert body["HostConfig"]["NetworkMode"] == "default"
    assert body["NetworkingConfig"] == {"EndpointsConfig": {}}


def test_without_a_command_the_image_decides() -> None:
    assert body_of("busybox")["Cmd"] is None
    assert "Entrypoint" not in body_of("busybox")


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["-w", "/srv"], "WorkingDir", "/srv"),
        (["-u", "1:2"], "User", "1:2"),
        (["-h", "web"], "Hostname", "web"),
        (["--hostname", "web"], "Hostname", "web"),
        (["-t"], "Tty", True),
        (["-i"], "OpenStdin", True),
        (["-i"], "StdinOnce", True),
        (["-i", "-d"], "StdinOnce", False),
        (["-l", "a=b", "-l", "c"], "Labels", {"a": "b", "c": ""}),
        (["--stop-signal", "INT"], "StopSignal", "INT"),
        (["--stop-timeout", "0"], "StopTimeout", 0),
        (["--entrypoint", "sh"], "Entrypoint", ["sh"]),
        (["--entrypoint", ""], "Entrypoint", [""]),
        (["-v", "/data"], "Volumes", {"/data": {}}),
        (["--expose", "80-81"], "ExposedPorts", {"80/tcp": {}, "81/tcp": {}}),
        (["-a", "stdout"], "AttachStderr", False),
        (["-a", "STDERR"], "AttachStderr", True),
        (["--mac-address", "02:00:00:00:00:01"], "MacAddress", "02:00:00:00:00:01"),
    ],
)
def test_options_of_the_container(words: list[str], key: str, value: object) -> None:
    assert body_of(*words, "image")[key] == value


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--rm"], "AutoRemove", True),
        (["--read-only"], "ReadonlyRootfs", True),
        (["--privileged"], "Privileged", True),
        (["--init"], "Init", True),
        (["-P"], "PublishAllPorts", True),
        (["--cap-add", "NET_ADMIN", "--cap-add=SYS_TIME"], "CapAdd", ["NET_ADMIN", "SYS_TIME"]),
        (["--cap-drop", "ALL"], "CapDrop", ["ALL"]),
        (["-v", "/a:/b:ro", "-v", "vol:/c"], "Binds", ["/a:/b:ro", "vol:/c"]),
        (["--tmpfs", "/run:size=1m", "--tmpfs", "/t"], "Tmpfs", {"/run": "size=1m", "/t": ""}),
        (["--network", "web"], "NetworkMode", "web"),
        (["--net=host"], "NetworkMode", "host"),
        (["--dns", "1.1.1.1"], "Dns", ["1.1.1.1"]),
        (["--dns-search", "x.y"], "DnsSearch", ["x.y"]),
        (["--dns-opt", "ndots:2"], "DnsOptions", ["ndots:2"]),
        (["--add-host", "a:1.2.3.4", "--add-host", "b=::1"], "ExtraHosts", ["a:1.2.3.4", "b:::1"]),
        (["--restart", "on-failure:5"], "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 5}),
        (["--restart", "always"], "RestartPolicy", {"Name": "always", "MaximumRetryCount": 0}),
        ([], "RestartPolicy", {"Name": "no", "MaximumRetryCount": 0}),
        (["-m", "64m"], "Memory", 64 << 20),
        (["--memory-swap", "-1"], "MemorySwap", -1),
        (["--cpus", "1.5"], "NanoCpus", 1_500_000_000),
        (["--cpu-shares", "512"], "CpuShares", 512),
        (["--cpuset-cpus", "0-1"], "CpusetCpus", "0-1"),
        (["--pids-limit", "-1"], "PidsLimit", -1),
        (["--shm-size", "1g"], "ShmSize", 1 << 30),
        (["--oom-score-adj", "-500"], "OomScoreAdj", -500),
        (["--ulimit", "nofile=1:2"], "Ulimits", [{"Name": "nofile", "Soft": 1, "Hard": 2}]),
        (["--ulimit", "core=0"], "Ulimits", [{"Name": "core", "Soft": 0, "Hard": 0}]),
        (["--sysctl", "net.core.somaxconn=5"], "Sysctls", {"net.core.somaxconn": "5"}),
        (["--security-opt", "seccomp=unconfined"], "SecurityOpt", ["seccomp=unconfined"]),
        (
            ["--device", "/dev/fuse"],
            "Devices",
            [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}],
        ),
        (
            ["--device", "/dev/a:/dev/b:r"],
            "Devices",
            [{"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}],
        ),
        (
            ["--mount", "type=bind,src=/a,dst=/b,ro"],
            "Mounts",
            [{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}],
        ),
        (
            ["--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777"],
            "Mounts",
            [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}}],
        ),
        (["--mount", "source=v,target=/t"], "Mounts", [{"Type": "volume", "Source": "v", "Target": "/t"}]),
    ],
)
def test_options_of_the_host(words: list[str], key: str, value: object) -> None:
    assert host_of(*words)[key] == value


def test_options_of_the_endpoint_go_to_the_first_network() -> None:
    body = body_of(
        *("--network", "a", "--network", "name=b,alias=x,alias=y,ip=10.0.0.9,gw-priority=3"),
        *("--ip", "10.1.0.5", "--ip6", "fd00::5", "--network-alias", "web", "--mac-address", "02:00:00:00:00:01", "i"),
    )
    assert body["HostConfig"]["NetworkMode"] == "a"
    assert body["NetworkingConfig"]["EndpointsConfig"] == {
        "a": {
            "IPAMConfig": {"IPv4Address": "10.1.0.5", "IPv6Address": "fd00::5"},
            "Aliases": ["web"],
            "MacAddress": "02:00:00:00:00:01",
        },
        "b": {"Aliases": ["x", "y"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}, "GwPriority": 3},
    }


def test_environment_from_options_files_and_this_process(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=file\n  B=two words\nPASSED\nMISSING\n")
    body = body_of(
        *("-e", "A=option", "-e", "HOME", "-e", "UNSET", "--env-file", str(file), "image"),
        environ={"HOME": "/home/me", "PASSED": "on"},
    )
    assert body["Env"] == ["A=file", "B=two words", "PASSED=on", "A=option", "HOME=/home/me"]


def test_relative_volumes_are_of_this_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert host_of("-v", "./www:/www:ro")["Binds"] == [f"{tmp_path}/www:/www:ro"]


def test_a_seccomp_profile_is_sent_as_its_text(tmp_path: Path) -> None:
    """As Docker's client sends it: the engine does not read files of ours."""
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    words = ["--security-opt", f"seccomp={profile}", "--security-opt", "seccomp=unconfined"]
    sent = ['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}', "seccomp=unconfined"]
    assert host_of(*words)["SecurityOpt"] == sent


@pytest.mark.parametrize(
    "words",
    [
        ["--security-opt", "seccomp=/does/not/exist"],
        ["--restart", "on-failure:x"],
        ["-m", "lots"],
        ["-m", "-1m"],
        ["--cpus", "1e3"],
        ["--cpus", "1.1234567890"],
        ["--ulimit", "nofile"],
        ["--ulimit", "nofile=a"],
        ["--mount", "type=bind,source=/a,target=/b,what=1"],
        ["--mount", "type=bind,source=/a,target=/b,ro=maybe"],
        ["--add-host", "a"],
        ["--add-host", ":1.2.3.4"],
        ["-a", "stdlog"],
        ["-e", ""],
        ["-e", "=x"],
        ["-l", "=x"],
        ["--env-file", "/does/not/exist"],
        ["--network", ""],
        ["--network", "alias=x"],
        ["--network", "name=a,colour=red"],
        ["--network", '"name=a'],
        ["--network", "name=a,gw-priority=1_0"],
        ["--network", '"name=a"b'],
        ["--network", f'"name={"a" * 200_000}"'],
        ["--network", "host", "--network", "a"],
    ],
)
def test_bad_values_are_refused_with_a_hint(words: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        body_of(*words, "image")
    assert caught.value.hint
    assert caught.value.exit_code == 125
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("1", 1), ("1k", 1024), ("1.5g", 3 << 29), ("2GiB", 2 << 30), ("2gb", 2 << 30), ("7 MB", 7 << 20)],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1kk", "nan", "inf", "1e400", "9999999p"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_size(text)


def test_cpus_durations_and_moments() -> None:
    assert parse_cpus(".5") == 500_000_000
    assert parse_duration("1h1m1.5s") == 3661.5
    assert parse_moment("1700000000.25") == "1700000000.25"
    assert parse_moment("10m", 1000.0) == "400.000000000"
    assert parse_moment("2026-01-31T12:00:00+00:00") == "1769860800"
    for text in ("", "10", "5x", "s"):
        with pytest.raises(InvalidArgument):
            parse_duration(text)


def test_a_networks_ranges_find_their_subnets() -> None:
    assert network.ipam_config(
        ["10.1.0.0/24", "fd00::/64"], ["10.1.0.128/25"], ["fd00::1", "10.1.0.1"], {"printer": "10.1.0.9"}
    ) == [
        {
            "Subnet": "10.1.0.0/24",
            "IPRange": "10.1.0.128/25",
            "Gateway": "10.1.0.1",
            "AuxiliaryAddresses": {"printer": "10.1.0.9"},
        },
        {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
    ]


@pytest.mark.parametrize(
    ("subnets", "ranges", "gateways"),
    [
        (["x"], [], []),
        (["10.0.0.0/8", "10.1.0.0/16"], [], []),
        (["10.0.0.0/24"], [], ["10.0.1.1"]),
        (["10.0.0.0/24"], [], ["10.0.0.1", "10.0.0.2"]),
        (["10.0.0.0/24"], ["10.0.0.0/16"], []),
        ([], ["10.0.0.0/16"], []),
        ([], [], ["hello"]),
    ],
)
def test_a_networks_bad_ranges(subnets: list[str], ranges: list[str], gateways: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        network.ipam_config(subnets, ranges, gateways, {})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("ps", listing.LIST_FILTERS),
        ("network ls", networks.LIST_FILTERS),
        ("images", images.LIST_FILTERS),
        ("events", events.FILTERS),
    ],
)
def test_the_page_lists_the_filters_that_the_engine_knows(command: str, names: frozenset[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    assert f"| `{command}` | {', '.join(f'`{name}`' for name in sorted(names))} |" in page
