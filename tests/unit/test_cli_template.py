"""--format: the part of Go's templates that Docker's users write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.cli.gofuncs import TemplateError
from pynet.cli.output import show_rows
from pynet.cli.template import Template

INSPECT: dict[str, Any] = {
    "Id": "abc",
    "Name": "/web",
    "State": {"Status": "running", "Running": True, "Pid": 42, "Health": None},
    "Args": ["-f", "-p"],
    "NetworkSettings": {
        "Networks": {"b": {"IPAddress": "10.0.0.2"}, "a": {"IPAddress": "10.1.0.2"}},
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": None},
    },
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("{{.Id}}-{{ .Name }}", "abc-/web"),
        ("{{.ID}}", "abc"),
        ("{{.State.Status}} {{.State.Running}} {{.State.Pid}} {{.State.Health}}", "running true 42 <no value>"),
        ("{{json .Args}}", '["-f","-p"]'),
        ("{{json .State.Health}}", "null"),
        ("{{.Args}}", "[-f -p]"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "10.1.0.2 10.0.0.2 "),
        (
            "{{range $name, $net := .NetworkSettings.Networks}}{{$name}}={{$net.IPAddress}};{{end}}",
            "a=10.1.0.2;b=10.0.0.2;",
        ),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        ('{{index .NetworkSettings.Networks "b" "IPAddress"}}', "10.0.0.2"),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}}{{if $conf}}{{$p}} -> {{(index $conf 0).HostPort}}{{end}}{{end}}",
            "80/tcp -> 8080",
        ),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ('{{if eq .State.Status "exited"}}1{{else if eq .State.Status "running"}}2{{else}}3{{end}}', "2"),
        ("{{if not .State.Health}}none{{end}}", "none"),
        ("{{if and .State.Running (gt .State.Pid 1)}}yes{{end}}", "yes"),
        ("{{with .State.Health}}x{{else}}no health{{end}}{{with .Name}}<{{.}}>{{end}}", "no health</web>"),
        ('{{join .Args ","}} {{upper .Id}} {{len .Args}} {{title "ab"}}', "-f,-p ABC 2 Ab"),
        ('{{.Args | json}} {{.Id | printf "%s-%q" "x"}}', '["-f","-p"] x-"abc"'),
        ('{{printf "%5d|%-4s|%v" .State.Pid "a" .State.Running}}', "   42|a   |true"),
        ("{{$x := .Id}}{{$x}}{{$.Name}}", "abc/web"),
        ("a {{- .Id -}} b", "aabcb"),
        ("{{/* nothing */}}x", "x"),
        ("{{println .Id}}", "abc\n"),
        ("{{slice .Id 0 2}}", "ab"),
        ("{{range .Args}}{{.}}{{else}}none{{end}}{{range $i, $a := .Args}}{{$i}}{{end}}", "-f-p01"),
        ("{{`raw`}}{{3}}{{true}}", "raw3true"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    assert Template(template).render(INSPECT) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Nope}}", "no entry for key 'Nope'"),
        ("{{.Id.Deeper}}", "can't evaluate field Deeper"),
        ("{{.Id", "unclosed action"),
        ("{{}}", "missing value"),
        ("{{if .Id}}x", "end}} is missing"),
        ("x{{end}}", "unexpected {{end}}"),
        ("{{foo .Id}}", 'function "foo" not defined'),
        ("{{.Id | }}", "missing value"),
        ("{{(.Id}}", "unclosed left parenthesis"),
        ("{{$nope}}", "undefined variable"),
        ("{{range .State.Pid}}{{end}}", "can't iterate over 42"),
        ("{{index .Args 9}}", "out of range"),
        ("{{join .Args}}", "error calling join"),
        ("{{.Id ?}}", "unexpected"),
        ('{{.Id "x"}}', "can't give argument"),
    ],
)
def test_bad_templates(template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        Template(template).render(INSPECT)
    assert caught.value.hint


@given(st.text(alphabet='{}. -"$|()=:aIndexrgif', max_size=40))
def test_any_text_is_rendered_or_refused(text: str) -> None:
    try:
        Template(text).render(INSPECT)
    except TemplateError:
        pass


ROWS: list[dict[str, object]] = [
    {"ID": "1", "Names": "web", "RunningFor": "x"},
    {"ID": "22", "Names": "db", "RunningFor": "y"},
]
COLUMNS = [("ID", "CONTAINER ID"), ("Names", "NAMES")]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "CONTAINER ID   NAMES\n1              web\n22             db\n"),
        ("table", "CONTAINER ID   NAMES\n1              web\n22             db\n"),
        ("table {{.Names}}\\t{{.ID}}", "NAMES   CONTAINER ID\nweb     1\ndb      22\n"),
        ("table {{.Names}}\t{{.RunningFor}}", "NAMES   RUNNING FOR\nweb     x\ndb      y\n"),
        ("{{.ID}}:{{.Names}}", "1:web\n22:db\n"),
        ("{{json .Names}}", '"web"\n"db"\n'),
        ("json", '{"ID":"1","Names":"web","RunningFor":"x"}\n{"ID":"22","Names":"db","RunningFor":"y"}\n'),
    ],
)
def test_listings(template: str | None, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(template, ROWS, COLUMNS)
    assert capsys.readouterr().out == expected
