"""One table says what becomes of every field of a request: complete, true, and shown in the docs.  No daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pynet.engine.container.config import complete_config
from pynet.engine.container.endpoints import endpoint_settings
from pynet.engine.container.execs import parse_exec
from pynet.engine.container.hostconfig import complete_host_config, resource_update
from pynet.engine.container.mounts import parse_mount
from pynet.engine.container.record import Container
from pynet.engine.container.specs import build_spec
from pynet.engine.fields import Fields
from pynet.engine.network_shapes import create_arguments
from pynet.engine.options import TABLES, Answer, Honoured, Refused, Warned, Within, judge
from pynet.netlib.errors import InvalidArgument, PynetError

from support.api_fields import FIELDS, markdown


def test_every_field_of_the_api_is_in_a_table_and_no_other() -> None:
    assert set(TABLES) == set(FIELDS)
    for table, names in FIELDS.items():
        assert sorted(name for name in TABLES[table] if name != "*") == sorted(names.split()), table


def test_the_docs_show_the_tables() -> None:
    page = (Path(__file__).parents[2] / "docs/engine-api.md").read_text()
    assert markdown() in page, "docs/engine-api.md must have what tests/support/api_fields.py's markdown() gives"


class _Seen(dict[str, Any]):
    """An object of a request that remembers which of its fields were looked at by name."""

    def __init__(self, body: dict[str, Any], seen: set[str], where: str = "") -> None:
        super().__init__(body)
        self.seen, self.where = seen, where

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)


def _read(table: str, body: dict[str, Any]) -> set[str]:
    """Names of the fields that the code reads of an object, beside the tables."""
    seen: set[str] = set()
    spied = _Seen(body, seen)
    match table:
        case "Config":
            complete_config(spied, {}, "h")
        case "HostConfig":
            complete_host_config(spied)
        case "Update":
            resource_update(spied)
        case "Mounts":
            for kind in ("bind", "volume", "tmpfs"):
                source = {} if kind == "tmpfs" else {"Source": "/a" if kind == "bind" else "aa"}
                parse_mount(Fields(_Seen({"Type": kind, "Target": "/b", **source}, seen)))
        case "EndpointSettings":
            endpoint_settings(spied)
        case "Network":
            create_arguments(spied, (1, 51))
        case _:
            raise AssertionError(table)
    return seen


# what is decided elsewhere than in the function that _read calls for the table
ELSEWHERE = {
    "Config": {"NetworkDisabled"},
    "HostConfig": {"Mounts", "Tmpfs"},
    "Mounts": {"Consistency"},
    "Network": {"CheckDuplicate"},
}


@pytest.mark.parametrize(
    ("table", "body"),
    [
        ("Config", {"Cmd": ["x"], "StopTimeout": 1, "MacAddress": "02:00:00:00:00:01"}),
        ("HostConfig", {"Annotations": {"a": "b"}, "Init": True, "MaskedPaths": [], "ReadonlyPaths": []}),
        ("Update", {"PidsLimit": 5}),
        ("Mounts", {}),
        ("EndpointSettings", {}),
        ("Network", {"Name": "x"}),
    ],
)
def test_what_is_called_honoured_is_read(table: str, body: dict[str, Any]) -> None:
    honoured = {name for name, rule in TABLES[table].items() if isinstance(rule, (Honoured, Within))}
    refused_within = {
        name
        for name, rule in TABLES[table].items()
        if isinstance(rule, Within) and not any(isinstance(r, (Honoured, Within)) for r in TABLES[rule.table].values())
    }
    asked_elsewhere = ELSEWHERE.get(table, set()) | {"HostConfig", "NetworkingConfig"}
    assert honoured - refused_within - asked_elsewhere <= _read(table, body), "called honoured, and never looked at"


def _some(name: str) -> Any:
    """A value that says something, for a field that is warned about or refused: its type does not matter there."""
    return ["x"] if name in ("Devices", "Ulimits") else "x"


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (table, name)
        for table, rules in TABLES.items()
        for name, rule in rules.items()
        if isinstance(rule, (Warned, Refused)) and name != "*"
    ],
)
def test_what_is_not_honoured_is_said(table: str, name: str) -> None:
    rule = TABLES[table][name]
    fields = Fields({name: _some(name)}, f"{table}.")
    if isinstance(rule, Refused):
        with pytest.raises(PynetError) as caught:
            judge(fields, table)
        assert str(caught.value) == rule.text
        assert caught.value.hint
    else:
        assert isinstance(rule, Warned)
        assert judge(fields, table) == [rule.text]
        with pytest.raises(InvalidArgument):
            judge(fields, table, warn=False)
    for nothing in (None, False, 0, "", [], {}, *rule.but):
        assert judge(Fields({name: nothing}), table, warn=False) == []


def test_a_field_that_nobody_knows_is_said() -> None:
    assert judge(Fields({"Memroy": 5}, "HostConfig."), "HostConfig") == [
        "HostConfig.Memroy has no effect: it is no field that this engine knows"
    ]
    with pytest.raises(InvalidArgument, match="Comand has no effect"):
        judge(Fields({"Comand": ["x"]}), "Exec", warn=False)
    with pytest.raises(InvalidArgument, match="unknown log opt 'colour' for json-file log driver"):
        judge(Fields({"LogConfig": {"Config": {"colour": "red"}}}), "HostConfig")
    with pytest.raises(InvalidArgument, match="unknown option of an endpoint: sysctls"):
        judge(Fields({"EndpointConfig": {"DriverOpts": {"sysctls": "x"}}}), "Connect", warn=False)


def test_what_the_engine_answered_may_be_sent_back() -> None:
    answered = {name: "x" for name, rule in TABLES["EndpointSettings"].items() if isinstance(rule, Answer)}
    assert judge(Fields({"NetworkingConfig": {"EndpointsConfig": {"mine": answered}}}), "Config") == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"NetworkingConfig": {"EndpointsConfig": {"a": {"DriverOpts": {"x": "y"}}}}},
            "unknown option of an endpoint: x",
        ),
        (
            {"HostConfig": {"Mounts": [{}, {"VolumeOptions": {"DriverConfig": {"Options": {"type": "nfs"}}}}]}},
            "no options",
        ),
        ({"HostConfig": {"Mounts": [{"VolumeOptions": {"Subpath": "a"}}]}}, "subpath"),
        ({"HostConfig": {"DeviceRequests": [{"Count": -1}]}}, 'could not select device driver ""'),
    ],
)
def test_deep_fields_are_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        judge(Fields(body), "Config")


# -- what the honoured ones come to ------------------------------------------------------------------------------


def spec_of(host: dict[str, Any], config: dict[str, Any] | None = None, **more: Any) -> Any:
    judged = complete_host_config(host)
    made = Container(
        "ab" * 32, "box", 1.0, "sha256:x", complete_config({"Cmd": ["x"], **(config or {})}, {}, "h"), judged.config,
        {"lower": [], "upper": "", "work": ""}, more.get("mounts", []), {}, [], judged.confinement,
    )  # fmt: skip
    return build_spec(made, netns="", cgroup_parent="p", log="/log", files={}, volume_path=str)


def test_paths_of_the_system() -> None:
    assert "/proc/kcore" in spec_of({})["masked_paths"]
    hosts: list[dict[str, Any]] = [
        {"SecurityOpt": ["systempaths=unconfined"]},
        {"Privileged": True},
        {"MaskedPaths": []},
    ]
    for host in hosts:
        assert spec_of(host)["masked_paths"] == []
    assert spec_of({"MaskedPaths": ["/proc/x"], "ReadonlyPaths": ["/proc/y"]})["readonly_paths"] == ["/proc/y"]
    assert complete_host_config({"MaskedPaths": ["/proc/x"]}).config["MaskedPaths"] == ["/proc/x"]
    with pytest.raises(InvalidArgument, match="no absolute path"):
        complete_host_config({"ReadonlyPaths": ["../x"]})


def test_a_log_driver_of_none() -> None:
    none = {"LogConfig": {"Type": "none"}}
    assert spec_of(none)["log"] == ""
    assert spec_of(none, {"AttachStdout": True})["log"] == "/log"
    assert spec_of({})["log"] == "/log"


def test_mounts() -> None:
    alone = parse_mount(Fields({"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"NonRecursive": True}}))
    assert spec_of({}, mounts=[alone])["mounts"][0]["recursive"] is False
    tmpfs = {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 5, "Options": [["exec"], ["uid", "1"]]}}
    assert parse_mount(Fields(tmpfs)).options == "size=5,exec,uid=1"
    bads: list[Any] = [[["a", "b", "c"]], [["a,b"]], "x", [[]], [[1]]]
    for bad in bads:
        with pytest.raises(InvalidArgument):
            parse_mount(Fields({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Options": bad}}))
    volume = parse_mount(Fields({"Type": "volume", "Target": "/v", "VolumeOptions": {"Labels": {"a": "b"}}}))
    assert volume.labels == {"a": "b"}


def test_small_ones() -> None:
    assert spec_of({}, {"Domainname": "example.org"})["sysctls"] == {"kernel.domainname": "example.org"}
    config = complete_host_config(
        {"Annotations": {"a": "b"}, "ConsoleSize": [24, 80], "Isolation": "default", "Runtime": "runc"}
    ).config
    assert (config["Annotations"], config["ConsoleSize"]) == ({"a": "b"}, [24, 80])
    assert (config["Isolation"], config["Runtime"]) == ("default", "runc")
    assert resource_update({"PidsLimit": -1})[0] == {"PidsLimit": None}
    assert resource_update({"PidsLimit": None})[0] == {}
    assert resource_update({"MemoryReservation": 5}) == ({}, [TABLES["Update"]["MemoryReservation"].text])  # type: ignore[union-attr]
    kept = complete_config(
        {"Cmd": ["x"], "Shell": ["sh"], "OnBuild": ["RUN x"], "Healthcheck": {"Test": ["NONE"]}}, {}, "h"
    )
    assert (kept["Shell"], kept["OnBuild"], kept["Healthcheck"]) == (["sh"], ["RUN x"], {"Test": ["NONE"]})


def test_an_exec_says_what_it_does_not_know() -> None:
    made = Container("x", "box", 0, "", complete_config({"Cmd": ["x"]}, {}, "h"), {}, {}, [], {})
    with pytest.raises(InvalidArgument, match="Memory has no effect"):
        parse_exec({"Cmd": ["x"], "Memory": 5}, made)
