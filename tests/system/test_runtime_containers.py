"""Containers as the supervisor starts them: a busybox root from an overlay, in all namespaces, as root or as anybody.

Run as root, the file also runs itself as user nobody in ``unshare -Urnm`` (the last test).  What needs cgroups or
several uids skips there by name.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.errors import Conflict, InvalidArgument, NotFound, NotModified
from pynet.runtime.client import StartFailed, SupervisorClient
from pynet.runtime.launch import spawn
from pynet.runtime.spec import DEFAULT_CAPABILITIES, ContainerSpec

from support.runtime import BOUND, NO_MAP, Lab, bind, command, exec_output, needs_root, read_all, running_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("rt")) as lab:
        yield lab


# -- start and exit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_is_the_programs(lab: Lab, code: int) -> None:
    assert lab.sh(f"exit {code}").code == code


def test_a_signal_is_128_and_its_number(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "echo up > /control/up; read x < /control/go")
    control = lab.control(spec)
    lab.client.start(spec)
    assert control.heard() == "up"
    lab.client.kill(spec["id"], 9)
    assert lab.finish(spec).code == 137
    control.close()


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["foo"], 127, 'exec: "foo": executable file not found in $PATH'),
        (["/bin/foo"], 127, 'exec: "/bin/foo": stat /bin/foo: no such file or directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
        (["/etc"], 126, 'exec: "/etc": is a directory'),
        ([], 125, "no command specified"),
    ],
)
def test_a_program_that_can_not_be_executed(lab: Lab, args: list[str], code: int, text: str) -> None:
    with pytest.raises(StartFailed) as caught:
        lab.run(*args)
    assert (caught.value.exit_code, caught.value.message) == (code, text)
    assert lab.client.list() == []


def test_a_wrong_format_is_126(lab: Lab) -> None:
    (lab.layer / "bin/junk").write_bytes(b"\x00\x01junk")
    (lab.layer / "bin/junk").chmod(0o755)
    with pytest.raises(StartFailed, match="exec /bin/junk: exec format error") as caught:
        lab.run("junk")
    assert caught.value.exit_code == 126


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"user": "nobody-here"}, "unable to find user nobody-here: no matching entries in passwd file"),
        ({"user": "web:nope"}, "unable to find group nope"),
        ({"capabilities": ["FLY"]}, 'Unknown capability: "FLY"'),
        ({"cwd": "relative"}, "needs to be an absolute path"),
        ({"sysctls": {"vm.swappiness": "1"}}, "not in a separate kernel namespace"),
        ({"sysctls": {"net.ipv4.ip_forward": "1"}}, "not allowed in host network namespace"),
        ({"netns": "/nowhere"}, "/nowhere: No such file or directory"),
        ({"rlimits": [("NOFILE", 20, 10)]}, "soft limit must be less than or equal"),
        ({"rlimits": [("NONSENSE", 1, 1)]}, "invalid ulimit type: NONSENSE"),
        ({"seccomp": "/nowhere.json"}, "seccomp profile: Expecting value"),
        ({"seccomp": "[" * 100_000}, "seccomp profile: "),
        (
            {"seccomp": '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",'
             ' "errnoRet": 1e999}]}'},
            "seccomp profile: ",
        ),
        ({"mounts": [bind(Path("/nowhere"), "/x")]}, "/nowhere: No such file or directory"),
        ({"mounts": [bind(Path("/etc"), "/proc/sys")]}, "inside /proc"),
        ({"mounts": [bind(Path("/etc"), "/")]}, "destination can't be '/'"),
        ({"rootfs": {"lower": ["/nowhere"], "upper": "/x", "work": "/y", "readonly": False}}, "layer directory is missing"),
        ({"devices": [{"source": "/etc/passwd", "target": "", "access": "rwm"}]}, "not a device node"),
        ({"cwd": "/etc/passwd"}, "Not a directory"),
    ],
)  # fmt: skip
def test_what_can_not_be_set_up_is_125_and_leaves_nothing(lab: Lab, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(StartFailed) as caught:
        lab.run("true", **changes)
    assert caught.value.exit_code == 125
    assert text in caught.value.message
    assert lab.client.list() == []


def test_malformed_requests_are_refused(lab: Lab) -> None:
    good = lab.spec("true")
    for broken in ({"id": "../up"}, {"id": 7}, {"cgroup": "../x"}, {"cgroup": "/x"}, {"limits": None}, {"args": 5}):
        with pytest.raises(InvalidArgument):
            lab.client.start({**good, **broken})  # type: ignore[typeddict-item]
    with pytest.raises(InvalidArgument, match="lacks env, user"):
        lab.client.start({key: value for key, value in good.items() if key not in ("env", "user")})  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        lab.client.kill("nobody")
    assert lab.client.list() == []


def test_a_running_container_is_not_started_or_removed(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read x < /control/go")
    control = lab.control(spec)
    lab.client.start(spec)
    with pytest.raises(Conflict):
        lab.client.start(spec)
    with pytest.raises(Conflict):
        lab.client.remove(spec["id"])
    control.say("\n")
    lab.wait("exited", spec["id"])
    with pytest.raises(NotModified):
        lab.client.stop(spec["id"])
    # and an exited one may start again under its id
    lab.events.clear()
    lab.client.start(spec)
    control.say("\n")
    assert lab.finish(spec).code == 0
    control.close()


# -- what it finds inside -------------------------------------------------------------------------------------------


def test_it_is_alone(lab: Lab) -> None:
    result = lab.sh("echo $$; hostname; ls /proc | grep -c '^[0-9]'; ps | wc -l; cat /proc/1/cgroup")
    assert result.lines[:2] == ["1", "box"]
    assert int(result.lines[2]) < 5
    assert all(line.endswith(":/") for line in result.lines[4:]), "the cgroup namespace begins elsewhere"


def test_signals_are_as_a_program_expects(lab: Lab) -> None:
    """CPython ignores SIGPIPE and SIGXFSZ, and what is ignored survives execve(2): ``yes | head`` would never end."""
    lines = lab.run("grep", "^Sig[^Q]", "/proc/self/status").lines
    found = {key: int(value, 16) for key, _, value in (line.partition(":") for line in lines)}
    internal = 0b11 << 31  # 32 and 33 are the C library's own (nptl(7)): it refuses to change them
    assert found["SigIgn"] & ~internal == 0
    assert found["SigBlk"] == 0
    assert found["SigCgt"] == 0


def test_no_descriptor_leaks_in(lab: Lab) -> None:
    # the shell opens its glob's directory as 3
    assert lab.sh("cd /proc/self/fd; echo *").out.strip() in ("0 1 2", "0 1 2 3")
    result = lab.sh("for fd in /proc/$$/fd/*; do readlink $fd; done")
    assert result.lines[0] == "/dev/null"
    for line in result.lines[1:3]:
        assert line.endswith(("/out", "/err"))


def test_the_environment_is_dockers(lab: Lab) -> None:
    result = lab.run("env", env=["A=1", "B=x=y", "A=2", "PATH=/bin:/usr/bin"], user="1000" if not NO_MAP else "")
    found = {key: value for key, _, value in (line.partition("=") for line in result.lines)}
    home = "/" if NO_MAP else "/srv"
    home = "/root" if NO_MAP else home
    assert found == {"A": "2", "B": "x=y", "PATH": "/bin:/usr/bin", "HOSTNAME": "box", "HOME": home}


def test_the_working_directory_is_made(lab: Lab) -> None:
    assert lab.sh("pwd", cwd="/made/for/it").out == "/made/for/it\n"


@needs_root
@pytest.mark.parametrize(
    ("user", "groups", "shown"),
    [
        ("", [], "uid=0(root) gid=0(root) groups=0(root)"),
        ("web", [], "uid=1000(web) gid=1001(web) groups=1001(web),50(logs)"),
        ("1000:50", [], "uid=1000(web) gid=50(logs) groups=50(logs)"),
        ("4711", [], "uid=4711 gid=0(root) groups=0(root)"),
        ("web", ["7"], "uid=1000(web) gid=1001(web) groups=7,1001(web),50(logs)"),
    ],
)
def test_the_user_comes_from_the_containers_files(lab: Lab, user: str, groups: list[str], shown: str) -> None:
    result = lab.run("id", user=user, groups=groups)
    found = result.out.strip().split(" ")
    assert found[:2] == shown.split(" ")[:2]
    if "groups=" in shown:
        listed = set(found[2].removeprefix("groups=").split(","))
        assert listed == set(shown.split("groups=")[1].split(","))


@needs_root
def test_any_user_can_open_its_output_again(lab: Lab) -> None:
    assert lab.sh("echo again > /dev/stdout", user="web").out == "again\n"


def test_a_fifo_as_passwd_file_does_not_hang_the_start(lab: Lab) -> None:
    spec = lab.spec("true")
    upper = Path(spec["rootfs"]["upper"])
    (upper / "etc").mkdir()
    os.mkfifo(upper / "etc/passwd")
    lab.client.start(spec)
    assert lab.finish(spec).code == 0


def status(lab: Lab, **changes: Any) -> dict[str, str]:
    text = lab.run("cat", "/proc/self/status", **changes).out
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_capabilities_and_filters(lab: Lab) -> None:
    default = status(lab)
    mknod = 1 << 27
    assert int(default["CapEff"], 16) | mknod == 0xA80425FB, "Docker's default set"
    assert default["CapPrm"] == default["CapBnd"] == default["CapEff"]
    assert default["CapInh"] == default["CapAmb"] == "0" * 16
    assert (default["Seccomp"], default["NoNewPrivs"]) == ("2", "0")
    few = status(lab, capabilities=["CHOWN"], no_new_privileges=True, seccomp="unconfined")
    assert (int(few["CapEff"], 16), int(few["CapBnd"], 16), few["Seccomp"], few["NoNewPrivs"]) == (1, 1, "0", "1")
    both = status(lab, no_new_privileges=True)
    assert (both["Seccomp"], both["NoNewPrivs"]) == ("2", "1")


@needs_root
def test_another_user_has_no_capabilities(lab: Lab) -> None:
    found = status(lab, user="web")
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0
    assert int(found["CapBnd"], 16) & ~(1 << 27) == 0xA80425FB & ~(1 << 27)


def test_seccomp_refuses_and_a_profile_replaces_it(lab: Lab) -> None:
    # CAP_SYS_ADMIN does not help to unshare when the filter says no: the profile knows the capabilities
    assert lab.run("unshare", "-m", "true").code != 0
    assert lab.run("unshare", "-m", "true", capabilities=[*DEFAULT_CAPABILITIES, "SYS_ADMIN"]).code == 0
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}
    profile = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    result = lab.run("mkdir", "/tmp/x", seccomp=profile)
    assert "quota" in result.err.lower()
    for broken, text in (
        ("{}", "no defaultAction"),
        ("{", "seccomp profile: "),
        ('{"defaultAction": "X"}', "unknown action 'X'"),
    ):
        with pytest.raises(StartFailed, match=text):
            lab.run("true", seccomp=broken)


def test_masked_and_read_only_paths(lab: Lab) -> None:
    result = lab.sh(
        "cat /proc/timer_list | wc -c; ls /sys/firmware | wc -l; echo 0 > /proc/sys/kernel/core_pattern; echo $?"
    )
    assert result.lines == ["0", "0", "1"]
    assert "Read-only" in result.err
    assert lab.sh("touch /sys/x").code == 1


def test_privileged_is_not_masked(lab: Lab) -> None:
    result = lab.sh("grep -c . /proc/interrupts; mount -t tmpfs x /tmp && echo mounted", privileged=True)
    assert result.lines[-1] == "mounted", result
    assert int(result.lines[0]) > 1


def test_devices(lab: Lab) -> None:
    result = lab.sh(
        "head -c 3 /dev/zero | wc -c; echo x > /dev/null; echo x > /dev/full; ls -l /dev/urandom | cut -c1-10; cat /dev/shm/x;"
        "df -k /dev/shm | tail -1 | awk '{print $2}'",
        shm_size=1 << 20,
    )
    assert result.lines == ["3", "crw-rw-rw-", "1024"]
    assert "No space left" in result.err


@needs_root
def test_a_host_device_can_be_given(lab: Lab) -> None:
    if not Path("/dev/kmsg").exists():
        pytest.skip("this host has no /dev/kmsg")
    assert (
        lab.sh("ls -l /dev/log1 | cut -c1", devices=[{"source": "/dev/kmsg", "target": "/dev/log1", "access": "r"}]).out
        == "c\n"
    )


@needs_root
def test_a_host_device_keeps_its_owner_and_mode(lab: Lab, tmp_path: Path) -> None:
    """It was root's: what its group was made for, a user that is added to the group, could not open it."""
    os.mknod(tmp_path / "full", stat.S_IFCHR | 0o640, os.makedev(1, 7))
    os.chmod(tmp_path / "full", 0o640)
    os.chown(tmp_path / "full", 123, 456)
    device = {"source": str(tmp_path / "full"), "target": "/dev/mine", "access": "r"}
    script = "stat -c %u:%g:%a /dev/mine; head -c 1 /dev/mine | wc -c"
    assert lab.sh(script, devices=[device], user="1000", groups=["456"]).lines == ["123:456:640", "1"]


@needs_root
def test_a_container_has_a_session_keyring_of_its_own(lab: Lab) -> None:
    """Where no filter keeps it from keyctl(2) it could read the keys of the login that had started the daemon."""
    if not Path("/proc/keys").exists():
        pytest.skip("this kernel has no keys")
    runs = [
        lab.run("grep", " _ses: ", "/proc/keys", seccomp="unconfined", masked_paths=[], privileged=True)
        for _ in range(2)
    ]
    keyrings = [{line.split()[0] for line in run.lines} for run in runs]
    assert keyrings[1] - keyrings[0], runs


def test_read_only_root(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "touch /x; echo $?; touch /dev/shm/x; echo $?; touch /scratch/y; echo $?")
    spec["rootfs"]["readonly"] = True
    scratch = bind(Path("/"), "/scratch")
    scratch.update(type="tmpfs", source="", options="size=1m,mode=1777")
    spec["mounts"] = [scratch]
    lab.client.start(spec)
    result = lab.finish(spec)
    assert result.lines == ["1", "0", "0"]
    assert "Read-only file system" in result.err


def test_rlimits_and_sysctls(lab: Lab) -> None:
    script = "ulimit -n; ulimit -Hn; cat /proc/sys/kernel/shmmni"
    result = lab.sh(script, rlimits=[("NOFILE", 100, 200)], sysctls={"kernel.shmmni": "99"})
    assert result.lines == ["100", "200", "99"]


def test_the_supervisors_own_file_limit_is_not_passed_on(lab: Lab) -> None:
    import resource

    assert lab.sh("ulimit -n").out.strip() == str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def test_init_reaps_and_forwards(lab: Lab) -> None:
    try:
        result = lab.sh("cat /proc/1/comm; exit 5", init=True)
    except StartFailed as error:
        assert "no init program" in error.message
        pytest.skip(error.message)
    assert result.lines[0] == "docker-init"
    assert result.code == 5


# -- mounts ---------------------------------------------------------------------------------------------------------


def test_bind_mounts(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("file\n")
    result = lab.sh(
        "cat /new/f; echo a > /rw/a; echo b > /ro/b; echo $?; ls /ro",
        mounts=[
            bind(tmp_path / "f", "/new/f", readonly=True),
            bind(tmp_path / "d", "/rw"),
            bind(tmp_path / "d", "/ro", readonly=True),
        ],
    )
    assert result.lines == ["file", "1", "a"]
    assert (tmp_path / "d/a").read_text() == "a\n"


def test_a_target_behind_hostile_links_stays_inside(lab: Lab, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "resolv.conf").write_text("host\n")
    (tmp_path / "ours").write_text("ours\n")
    spec = lab.spec("sh", "-c", f"cat /etc/resolv.conf; cat {outside}/resolv.conf; cat /up/x")
    upper = Path(spec["rootfs"]["upper"])
    (upper / "etc").mkdir()
    (upper / "etc/resolv.conf").symlink_to(outside / "resolv.conf")
    (upper / "up").symlink_to("../../../../../../../../tmp")
    spec["mounts"] = [bind(tmp_path / "ours", "/etc/resolv.conf"), bind(tmp_path / "ours", "/up/x")]
    lab.client.start(spec)
    result = lab.finish(spec)
    assert result.lines == ["ours"] * 3
    assert (outside / "resolv.conf").read_text() == "host\n"
    assert sorted(path.name for path in outside.iterdir()) == ["resolv.conf"]
    assert not (Path("/tmp") / "x").exists()


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_a_link_in_place_of_a_system_directory_is_refused(lab: Lab, name: str) -> None:
    spec = lab.spec("true")
    (Path(spec["rootfs"]["upper"]) / name).symlink_to("/etc")
    with pytest.raises(StartFailed, match=f"the image's /{name} is not a directory"):
        lab.client.start(spec)


def test_the_working_directory_does_not_lead_out(lab: Lab) -> None:
    for number in range(3, 14):
        with pytest.raises(StartFailed):
            lab.run("ls", cwd=f"/proc/self/fd/{number}")


def test_a_start_that_fails_half_way_leaves_no_mount_and_no_process(lab: Lab) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    for _ in range(3):
        with pytest.raises(StartFailed):
            lab.run("true", user="nobody-here")
    assert Path("/proc/self/mountinfo").read_text() == before
    assert lab.client.list() == []


# -- limits ---------------------------------------------------------------------------------------------------------


def test_limits_without_cgroups_are_a_warning(lab: Lab) -> None:
    if lab.has_cgroups:
        pytest.skip("cgroups may be made here")
    spec = lab.spec("true", limits={"memory": 64 << 20, "pids": 5})
    warnings = lab.client.start(spec).warnings
    lab.finish(spec)
    assert [warning.split()[0] for warning in warnings] == ["memory", "pids"]


def needs_cgroups(lab: Lab, *controllers: str) -> None:
    if not lab.has_cgroups:
        pytest.skip("cgroups may not be made here")
    missing = set(controllers) - set(lab.client.info()["cgroups"])
    if missing:
        pytest.skip(f"this host has no cgroup controllers {missing}")


def test_out_of_memory_is_137_and_said(lab: Lab) -> None:
    needs_cgroups(lab, "memory")
    spec = lab.spec("tail", "/dev/zero", limits={"memory": 24 << 20, "memory_swap": 24 << 20})
    lab.client.start(spec)
    result = lab.finish(spec)
    assert result.code == 137
    assert result.state["oom_killed"]
    assert lab.wait("oom", spec["id"])


def test_pids_cpu_and_memory_are_limited_and_counted(lab: Lab) -> None:
    needs_cgroups(lab, "memory", "pids", "cpu")
    limits = {"pids": 4, "memory": 64 << 20, "nano_cpus": 500_000_000, "cpu_shares": 512}
    script = "echo up > /control/up; read x < /control/go; for i in 1 2 3 4 5 6; do sleep 60 & done; echo no"
    spec = lab.spec("sh", "-c", script, limits=limits)
    control = lab.control(spec)
    assert lab.client.start(spec).warnings == []
    control.heard()
    stats = lab.client.stats(spec["id"])
    assert stats["memory_limit"] == 64 << 20
    assert 0 < stats["memory"] < 64 << 20
    assert stats["pids"] == 1
    assert stats["cpu"] > 0
    control.say("\n")
    result = lab.finish(spec)
    assert "fork" in result.err
    control.close()


def test_pause_and_unpause(lab: Lab) -> None:
    needs_cgroups(lab)
    spec = lab.spec("sh", "-c", "while read x < /control/go; do echo $x > /control/up; done")
    control = lab.control(spec)
    lab.client.start(spec)
    control.say("one\n")
    assert control.heard() == "one"
    lab.client.pause(spec["id"])
    assert lab.client.state(spec["id"])["status"] == "paused"
    with pytest.raises(Conflict):
        lab.client.pause(spec["id"])
    with pytest.raises(Conflict):
        lab.client.exec(spec["id"], command("true"), "e1")
    lab.client.unpause(spec["id"])
    control.say("two\n")
    assert control.heard() == "two"
    lab.client.pause(spec["id"])
    lab.client.kill(spec["id"], 9)
    assert lab.finish(spec).code == 137
    control.close()


# -- output, input, terminals ------------------------------------------------------------------------------------------


def test_the_log_is_dockers_json_file(lab: Lab) -> None:
    before = time.time()
    spec = lab.spec("sh", "-c", "echo out; echo err >&2; printf part")
    lab.client.start(spec)
    lab.finish(spec)
    records = lab.records(spec)
    assert sorted((record["stream"], record["log"]) for record in records) == [
        ("stderr", "err\n"), ("stdout", "out\n"), ("stdout", "part"),
    ]  # fmt: skip
    for record in records:
        assert sorted(record) == ["log", "stream", "time"]
        when = time.strptime(record["time"][:19], "%Y-%m-%dT%H:%M:%S")
        assert len(record["time"]) == 30 and record["time"].endswith("Z")
        assert abs(time.mktime(when) - time.timezone - before) < 60


def test_long_lines_and_any_byte_survive(lab: Lab) -> None:
    script = "(head -c 40000 /dev/zero | tr '\\0' x; echo; printf '\\377\\000\\303\\251\\n') > /tmp/all; cat /tmp/all"
    spec = lab.spec(
        "sh", "-c", script
    )  # in one write: the beginning of a line that waits for its end is logged by itself
    lab.client.start(spec)
    lab.finish(spec)
    records = lab.records(spec)
    assert [len(record["log"]) for record in records[:3]] == [16384, 16384, 7233]
    assert records[3]["log"].encode("utf-8", "surrogateescape") == b"\xff\x00\xc3\xa9\n"


def test_much_output_is_complete_and_in_order(lab: Lab) -> None:
    spec = lab.spec("seq", "1", "40000")
    lab.client.start(spec)
    assert lab.finish(spec).out == "".join(f"{number}\n" for number in range(1, 40001))


def test_a_prompt_is_logged_while_the_program_waits(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "printf 'name? '; read x < /control/go; echo hello $x")
    control = lab.control(spec)
    lab.client.start(spec)
    log = Path(spec["log"])
    watch = subprocess.Popen(["tail", "-c", "+1", "-f", log], stdout=subprocess.PIPE)
    assert watch.stdout is not None
    assert b'"name? "' in watch.stdout.readline()
    watch.kill()
    watch.wait()
    watch.stdout.close()
    control.say("you\n")
    assert lab.finish(spec).out == "name? hello you\n"
    control.close()


@pytest.mark.parametrize("once", [True, False])
def test_standard_input(lab: Lab, once: bool) -> None:
    spec = lab.spec("cat" if once else "head", *([] if once else ["-n", "1"]), open_stdin=True, stdin_once=once)
    lab.client.start(spec)
    (stdin,) = lab.client.attach(spec["id"])
    os.write(stdin, b"typed\n")
    os.close(stdin)
    assert lab.finish(spec).out == "typed\n"


def test_without_open_stdin_there_is_nothing_to_attach(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "cat; read x < /control/go")
    control = lab.control(spec)
    lab.client.start(spec)
    assert lab.client.attach(spec["id"]) == []
    control.say("\n")
    lab.finish(spec)
    control.close()


@pytest.mark.skipif(not NO_MAP, reason="every uid is mapped here")
def test_a_user_that_is_not_mapped_is_named(lab: Lab) -> None:
    with pytest.raises(StartFailed, match="user 1000:1001 is not mapped in this user namespace"):
        lab.run("true", user="web")


def test_a_subscriber_that_fails_does_not_silence_the_others(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    seen = threading.Event()

    def fails(_: object) -> None:
        seen.set()
        raise RuntimeError("subscriber's bug")

    client = SupervisorClient(lab.run_directory / "supervisor.sock")
    client.subscribe(fails)
    assert lab.run("true").code == 0
    assert seen.wait(BOUND)
    client.close()
    assert "subscriber's bug" in caplog.text


def test_a_terminal(lab: Lab) -> None:
    spec = lab.spec(
        "sh", "-c", "tty; test -c /dev/console && echo console; echo $TERM; read x; stty size; echo got $x", tty=True
    )
    lab.client.start(spec)
    lab.client.resize(spec["id"], 33, 111)
    (master,) = lab.client.attach(spec["id"])
    os.write(master, b"hello\n")
    os.close(master)
    result = lab.finish(spec)
    assert result.err == ""
    lines = [line for line in result.out.replace("\r", "").split("\n") if line and line != "hello"]
    assert lines == ["/dev/pts/0", "console", "xterm", "33 111", "got hello"]


# -- stop, kill, restart -----------------------------------------------------------------------------------------------


def test_stop_asks_first(lab: Lab) -> None:
    spec = lab.spec(
        "sh", "-c", "trap 'echo bye; exit 3' USR1; echo up > /control/up; while :; do read x < /control/go; done"
    )
    spec["stop_signal"] = int(signal.SIGUSR1)
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    assert lab.client.stop(spec["id"])["exit_code"] == 3
    assert lab.finish(spec).out == "bye\n"
    control.close()


def test_stop_kills_what_does_not_listen(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "trap '' TERM; echo up > /control/up; while :; do read x < /control/go; done")
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    assert lab.client.stop(spec["id"], timeout=0)["exit_code"] == 137
    lab.finish(spec)
    control.close()


def test_a_time_out_that_never_ends_is_one(lab: Lab) -> None:
    """The longest that the API can say was too much for epoll_wait(2), and the end of the supervisor."""
    spec = lab.spec(
        "sh",
        "-c",
        "trap 'echo asked > /control/up' TERM; echo up > /control/up; while :; do read x < /control/go; done",
    )
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    with pytest.raises(InvalidArgument, match="timeout is missing or not a number"):
        lab.client.stop(spec["id"], timeout=1 << 63)
    states: list[dict[str, Any]] = []
    stopping = threading.Thread(target=lambda: states.append(lab.client.stop(spec["id"], timeout=(1 << 63) - 1)))
    stopping.start()
    assert control.heard() == "asked"
    lab.client.kill(spec["id"], 9)
    stopping.join(BOUND)
    assert [state["exit_code"] for state in states] == [137]
    assert lab.client.info()["pid"] == lab.pid
    lab.finish(spec)
    control.close()


def test_on_failure_restarts_until_the_maximum(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "echo try; exit 3", restart={"name": "on-failure", "max": 2})
    lab.client.start(spec)
    result = lab.finish(spec)
    assert (result.code, result.out, result.state["restarts"]) == (3, "try\n" * 3, 2)
    delays = [e["delay"] for e in lab.events if e["event"] == "restarting" and e["id"] == spec["id"]]
    assert delays == [0.1, 0.2]


def test_on_failure_leaves_a_success_alone(lab: Lab) -> None:
    assert lab.sh("exit 0", restart={"name": "on-failure", "max": 0}).state["restarts"] == 0


def test_always_restarts_until_it_is_stopped(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "echo up > /control/up; read x < /control/go", restart={"name": "always", "max": 0})
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    control.say("\n")
    lab.wait("started", spec["id"], lambda e: e["restarts"] == 1)
    control.heard()
    state = lab.client.stop(spec["id"], timeout=0)
    assert (state["status"], state["restarts"]) == ("exited", 1)
    lab.finish(spec)
    control.close()


def test_a_stop_by_no_signal_is_refused_and_changes_nothing(lab: Lab) -> None:
    """It was answered with an error, and the restart policy was off from then on."""
    spec = lab.spec("sleep", "1000", restart={"name": "always", "max": 0})
    lab.client.start(spec)
    with pytest.raises(InvalidArgument, match="invalid signal: 99"):
        lab.client.stop(spec["id"], signal=99)
    assert not lab.client.state(spec["id"])["stopped"]
    lab.client.stop(spec["id"], timeout=0)
    lab.client.remove(spec["id"])


def test_a_stop_ends_the_wait_for_a_restart(lab: Lab) -> None:
    spec = lab.spec("false", restart={"name": "always", "max": 0})
    lab.client.start(spec)
    lab.wait("restarting", spec["id"], lambda e: e["delay"] >= 0.4)
    assert lab.client.stop(spec["id"])["status"] == "exited"
    assert lab.finish(spec).code == 1


def test_a_container_that_is_not_held_is_forgotten(lab: Lab) -> None:
    spec = lab.spec("true", hold=False)
    lab.client.start(spec)
    lab.wait("removed", spec["id"])
    assert lab.client.list() == []


# -- exec ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sleeper(lab: Lab) -> Iterator[ContainerSpec]:
    """A container for processes to join."""
    spec = lab.spec("sh", "-c", "read x < /control/go", env=["OF=container"])
    control = lab.control(spec)
    lab.client.start(spec)
    yield spec
    control.say("\n")
    lab.finish(spec)
    control.close()


def test_exec_joins_all_namespaces(lab: Lab, sleeper: ContainerSpec) -> None:
    script = "hostname; cat /proc/1/comm; echo $OF $MORE; pwd; echo err >&2; cat; exit 6"
    process = command("sh", "-c", script, env=["MORE=1"], cwd="/etc", stdin=True)
    started = lab.client.exec(sleeper["id"], process, "x1")
    stdin, stdout, stderr = started.fds
    assert started.pid in lab.client.processes(sleeper["id"])
    os.write(stdin, b"in\n")
    os.close(stdin)
    assert read_all(stdout).splitlines() == ["box", "sh", "container 1", "/etc", "in"]
    assert read_all(stderr) == "err\n"
    assert lab.wait("exec-exited", sleeper["id"], lambda e: e["exec_id"] == "x1")["exit_code"] == 6


def test_exec_has_the_containers_limits(lab: Lab, sleeper: ContainerSpec) -> None:
    _, text = exec_output(lab, sleeper, command("cat", "/proc/self/status"), "x2")
    found = {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    assert int(found["CapEff"], 16) | 1 << 27 == 0xA80425FB
    assert found["Seccomp"] == "2"
    _, text = exec_output(lab, sleeper, command("cat", "/proc/self/status", privileged=True), "x3")
    assert "Seccomp:\t0" in text
    _, text = exec_output(lab, sleeper, command("sh", "-c", "cd /proc/self/fd; echo *"), "x4")
    assert text.strip() in ("0 1 2", "0 1 2 3")


def test_exec_in_a_terminal(lab: Lab, sleeper: ContainerSpec) -> None:
    process = command("sh", "-c", "read x; tty; stty size", tty=True)
    started = lab.client.exec(sleeper["id"], process, "x5")
    lab.client.resize(sleeper["id"], 20, 70, exec_id="x5")
    with pytest.raises(InvalidArgument, match="invalid size of a terminal"):
        lab.client.resize(sleeper["id"], 1 << 16, 70, exec_id="x5")
    os.write(started.fds[0], b"\n")
    lines = read_all(started.fds[0]).replace("\r", "").split()
    assert lines == ["/dev/pts/0", "20", "70"]


def test_a_terminal_has_its_size_before_the_program_begins(lab: Lab, sleeper: ContainerSpec) -> None:
    """A resize that followed the start came too late for a fast program, and its NotFound took the output's place."""
    for number in range(20):
        started = lab.client.exec(sleeper["id"], command("stty", "size", tty=True, size=(31, 90)), f"w{number}")
        assert read_all(started.master).split() == ["31", "90"]
    with pytest.raises(InvalidArgument, match="invalid size of a terminal"):
        lab.client.exec(sleeper["id"], command("true", tty=True, size=(31, 1 << 16)), "w")


@needs_root
def test_exec_as_another_user(lab: Lab, sleeper: ContainerSpec) -> None:
    _, text = exec_output(lab, sleeper, command("id", "-u", user="web"), "x6")
    assert text == "1000\n"


@pytest.mark.parametrize(("args", "code"), [(["nope"], 127), (["/etc/passwd"], 126), ([], 125)])
def test_exec_of_what_can_not_be_executed(lab: Lab, sleeper: ContainerSpec, args: list[str], code: int) -> None:
    with pytest.raises(StartFailed) as caught:
        lab.client.exec(sleeper["id"], command(*args), "x7")
    assert caught.value.exit_code == code


def test_exec_ends_with_its_container(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read x < /control/go")
    control = lab.control(spec)
    lab.client.start(spec)
    started = lab.client.exec(spec["id"], command("sleep", "1000"), "y1")
    control.say("\n")
    assert lab.finish(spec).code == 0
    assert lab.wait("exec-exited", spec["id"])["exit_code"] == 137
    for fd in started.fds:
        os.close(fd)
    with pytest.raises(NotFound):
        lab.client.exec(spec["id"], command("true"), "y2")
    control.close()


# -- death of the supervisor ---------------------------------------------------------------------------------------------


def test_no_line_and_no_exit_code_is_lost_when_the_supervisor_is_killed(lab: Lab) -> None:
    script = "exec < /control/go; while read n; do test $n = end && exit 42; echo line $n; done"
    spec = lab.spec("sh", "-c", script)
    control = lab.control(spec)
    lab.client.start(spec)
    for first, last in ((1, 150), (151, 300), (301, 400)):
        control.say("".join(f"{number}\n" for number in range(first, last + 1)))
        if last < 400:
            lab.kill_supervisor()
            lab.pid = spawn(lab.run_directory)
    control.say("end\n")
    result = lab.finish(spec)
    assert result.code == 42
    assert result.lines == [f"line {number}" for number in range(1, 401)]
    control.close()


def test_an_exit_while_the_supervisor_is_away(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read x < /control/go; echo last words; exit 42")
    control = lab.control(spec)
    pidfd = os.pidfd_open(lab.client.start(spec).pid)
    lab.kill_supervisor()
    control.say("\n")
    assert select.select([pidfd], [], [], BOUND)[0]
    os.close(pidfd)
    lab.pid = spawn(lab.run_directory)
    result = lab.finish(spec)
    assert (result.code, result.out) == (42, "last words\n")
    control.close()


def test_an_exit_after_a_restart_while_the_supervisor_is_away(lab: Lab) -> None:
    """The client held the pidfd of the run before: its exit code was told for this one's."""
    script = "test -e /control/ran && { read x < /control/go; exit 42; }; touch /control/ran; exit 3"
    spec = lab.spec("sh", "-c", script, restart={"name": "on-failure", "max": 1})
    control = lab.control(spec)
    lab.client.start(spec)
    pid = lab.wait("started", spec["id"], lambda event: event["restarts"] == 1)["pid"]
    pidfd = os.pidfd_open(pid)
    lab.kill_supervisor()
    control.say("\n")
    reaped = select.poll()
    reaped.register(pidfd, 0)  # HUP is always told (poll(2)), and is the reap: until then /proc has the exit code too
    assert reaped.poll(BOUND * 1000)
    os.close(pidfd)
    lab.pid = spawn(lab.run_directory)
    assert lab.finish(spec).code == 42
    control.close()


def test_a_daemon_that_was_started_again_holds_what_the_one_before_held(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read x < /control/go; echo last words; exit 43")
    control = lab.control(spec)
    pidfd = os.pidfd_open(lab.client.start(spec).pid)
    lab.client.close()
    lab.client = SupervisorClient(lab.run_directory / "supervisor.sock")
    lab.client.subscribe(lab.event)
    lab.kill_supervisor()
    control.say("\n")
    assert select.select([pidfd], [], [], BOUND)[0]
    os.close(pidfd)
    lab.pid = spawn(lab.run_directory)
    result = lab.finish(spec)
    assert (result.code, result.out) == (43, "last words\n")
    control.close()


def test_what_happens_while_nobody_is_subscribed_is_told_to_the_next(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "read x < /control/go; exit 5")
    control = lab.control(spec)
    pidfd = os.pidfd_open(lab.client.start(spec).pid)
    lab.client.close()
    control.say("\n")
    assert select.select([pidfd], [], [], BOUND)[0]
    os.close(pidfd)
    lab.client = SupervisorClient(lab.run_directory / "supervisor.sock")
    lab.client.subscribe(lab.event)
    assert lab.finish(spec).code == 5
    control.close()


def test_a_new_supervisor_goes_on_with_everything(lab: Lab) -> None:
    spec = lab.spec(
        "sh", "-c", "echo up > /control/up; read x < /control/go; echo $x", restart={"name": "on-failure", "max": 1}
    )
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    started = lab.client.exec(spec["id"], command("sh", "-c", "read x; exit 9", stdin=True), "z1")
    lab.kill_supervisor()
    lab.pid = spawn(lab.run_directory)
    # joining, attaching, stopping work on a container that somebody else has started
    _, text = exec_output(lab, spec, command("hostname"), "z2")
    assert text == "box\n"
    os.write(started.fds[0], b"\n")
    assert lab.wait("exec-exited", spec["id"], lambda e: e["exec_id"] == "z1")["exit_code"] == 9
    for fd in started.fds:
        os.close(fd)
    assert lab.client.stop(spec["id"], timeout=0)["exit_code"] == 137
    assert lab.finish(spec).state["restarts"] == 0
    control.close()


def test_a_terminal_survives_the_supervisor(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "trap 'echo hung up' HUP; echo up > /control/up; read x; echo got $x", tty=True)
    control = lab.control(spec)
    lab.client.start(spec)
    control.heard()
    lab.kill_supervisor()
    lab.pid = spawn(lab.run_directory)
    back = threading.Event()
    lab.client.on_reconnect = back.set
    lab.client.list()  # waits for the connection
    assert back.wait(BOUND)
    lab.client.on_reconnect = None
    (master,) = lab.client.attach(spec["id"])
    os.write(master, b"hello\n")
    os.close(master)
    assert "got hello" in lab.finish(spec).out
    control.close()


def test_restarts_go_on_after_the_supervisor_died(lab: Lab) -> None:
    spec = lab.spec("sh", "-c", "echo try; exit 1", restart={"name": "on-failure", "max": 3})
    lab.client.start(spec)
    lab.wait("restarting", spec["id"], lambda e: e["delay"] >= 0.2)
    lab.kill_supervisor()
    lab.pid = spawn(lab.run_directory)
    result = lab.finish(spec)
    assert (result.out, result.state["restarts"]) == ("try\n" * 4, 3)


def test_no_descriptor_is_kept_of_what_has_ended(lab: Lab) -> None:
    lab.run("true")  # what is made once
    before = lab.open_descriptors()
    for _ in range(5):
        lab.run("true")
        lab.run("true", tty=True)
        with pytest.raises(StartFailed):
            lab.run("nope")
        with pytest.raises(StartFailed):
            lab.run("true", user="nobody-here", tty=True)
        with pytest.raises(StartFailed):
            lab.run("true", mounts=[bind(Path("/etc"), "/a"), bind(Path("/nowhere"), "/b")])
    assert lab.open_descriptors() == before


def test_a_start_says_that_it_was_let_go(lab: Lab) -> None:
    """By which the next supervisor tells a container that ran from one that never did (records.py)."""
    spec = lab.spec("sleep", "1000")
    lab.client.start(spec)
    assert Path(lab.run_directory, "containers", spec["id"], "begun").stat().st_size == 1
    lab.client.kill(spec["id"])
    lab.finish(spec)


def test_a_second_supervisor_gives_way(lab: Lab) -> None:
    assert spawn(lab.run_directory) == lab.pid


def test_the_daemon_is_started_again_when_it_dies(lab: Lab, tmp_path: Path) -> None:
    fifo = tmp_path / "up"
    os.mkfifo(fifo)
    up = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    daemon = subprocess.Popen(["sleep", "1000"])
    before = set(Path(f"/proc/{lab.pid}/task/{lab.pid}/children").read_text().split())  # a container of another test's
    lab.client.watch(daemon.pid, ["/bin/sh", "-c", f"echo up >> {fifo}; exec sleep 1000"])
    daemon.kill()
    daemon.wait()
    assert select.select([up], [], [], BOUND)[0]
    assert os.read(up, 100) == b"up\n"
    lab.client.watch(os.getpid(), [])
    children = set(Path(f"/proc/{lab.pid}/task/{lab.pid}/children").read_text().split()) - before
    assert len(children) == 1
    os.kill(int(children.pop()), signal.SIGKILL)
    os.close(up)


# -- anybody -----------------------------------------------------------------------------------------------------------

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urnm"]


def interpreter_for_nobody(base: Path) -> str:
    """This interpreter, or when it lives where only root may go, the system's with our modules."""
    if not subprocess.run([*NOBODY, sys.executable, "-c", ""], capture_output=True, check=False).returncode:
        return sys.executable
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    system = shutil.which(f"python{version}", path="/usr/local/bin:/usr/bin")
    if system is None:
        pytest.skip(f"user nobody may not execute {sys.executable}, and there is no other Python {version}")
    subprocess.run([system, "-m", "venv", "--without-pip", base / "venv"], check=True)
    paths = [path for path in sys.path if path.endswith("site-packages")]
    paths.append(str(Path(__file__).parents[2] / "src"))
    (base / f"venv/lib/python{version}/site-packages/ours.pth").write_text("\n".join(paths))
    return str(base / "venv/bin/python")


@needs_root
def test_all_of_it_as_nobody() -> None:
    base = Path(subprocess.check_output(["mktemp", "-d", "/tmp/pynet-nobody-XXXXXX"], text=True).strip())
    base.chmod(0o755)
    (base / "t").mkdir()
    os.chown(base / "t", 65534, 65534)
    environment = {"PATH": os.environ["PATH"], "HOME": str(base / "t"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        inner = [interpreter_for_nobody(base), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command = [*NOBODY, *inner, "--basetemp", str(base / "t/pytest"), __file__]
        root = Path(__file__).parents[2]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert " passed" in done.stdout
    finally:
        shutil.rmtree(base)


@needs_root
def test_the_same_where_only_cgroup_v2_is_mounted(tmp_path: Path) -> None:
    """A mount namespace without the v1 hierarchies: containers see their v2 group, devices are filtered by eBPF."""
    mounted = Path("/proc/self/mountinfo").read_text()
    if " - cgroup2 " not in mounted or " - cgroup cgroup " not in mounted:
        pytest.skip("this host has not both versions, so the other tests cover what it has")
    script = """
    for point in $(awk '/ - cgroup cgroup /{print $5}' /proc/self/mountinfo); do umount "$point" || exit 9; done
    exec "$@"
    """
    chosen = "exit_code or alone or descriptor or capabilities or devices or pause or exec_joins or everything"
    inner = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "t")]
    command = ["unshare", "-m", "sh", "-c", script, "sh", *inner, "-k", f"({chosen}) and not nobody", __file__]
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
