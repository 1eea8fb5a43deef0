"""Containers as the supervisor starts them: a busybox root from an overlay, in all namespaces, with its mounts and limits.

test_runtime_anybody.py runs this once more as user nobody: what needs cgroups or several uids skips there by name.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.errors import Conflict, InvalidArgument, NotFound, NotModified
from pynet.runtime.client import StartFailed
from pynet.runtime.spec import DEFAULT_CAPABILITIES

from support.runtime import NO_MAP, Lab, bind, command, needs_root

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
    (upper / "up").symlink_to("../" * 20 + str(outside).lstrip("/"))
    spec["mounts"] = [bind(tmp_path / "ours", "/etc/resolv.conf"), bind(tmp_path / "ours", "/up/x")]
    lab.client.start(spec)
    result = lab.finish(spec)
    assert result.lines == ["ours"] * 3
    assert (outside / "resolv.conf").read_text() == "host\n"
    assert sorted(path.name for path in outside.iterdir()) == ["resolv.conf"]


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
