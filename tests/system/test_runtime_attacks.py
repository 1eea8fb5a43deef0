"""Images, volumes and containers that try to reach the host through the runtime.

Each test puts links where the runtime will look, at run or at exec, and holds what the program gets against the host's
file that the links lead to.  Links go through every descriptor that a process of ours might still hold: /proc/self/fd/N
is a way out when N is a directory of the host's (CVE-2024-21626), and the very file when it is one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.runtime.spec import ContainerSpec

from support.runtime import Lab, bind, command, exec_output, needs_root, waiting

DESCRIPTORS = range(3, 48)
"""More than a supervisor with a container or two has."""
SECRET = "of the host only"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


@pytest.fixture
def victim(lab: Lab) -> Iterator[ContainerSpec]:
    """A container whose files the test spoils while it runs."""
    with waiting(lab) as spec:
        yield spec


def ways_out(path: Path) -> list[str]:
    """Where links lead: up from each descriptor to *path*, and through our own root, working directory and program."""
    up = "../" * 20 + str(path).lstrip("/")
    through = [f"/proc/self/fd/{number}/{up}" for number in DESCRIPTORS]
    files = [f"/proc/self/fd/{number}" for number in DESCRIPTORS]
    return [
        *through,
        *files,
        f"/proc/self/cwd/{up}",
        f"/proc/self/root/{up}",
        f"/proc/1/root/{up}",
        f"/proc/1/cwd/{up}",
    ]


def spoil(lab: Lab, spec: ContainerSpec, script: str, id: str) -> None:
    """Run *script* in the container, with an input of its own: nothing of the container is opened for it."""
    started = lab.client.exec(spec["id"], command("/bin/busybox", "sh", "-c", script, stdin=True), id)
    for fd in started.fds:
        os.close(fd)
    assert lab.wait("exec-exited", spec["id"], lambda e: e["exec_id"] == id)["exit_code"] == 0


@needs_root
def test_exec_never_opens_the_containers_null_device(lab: Lab, victim: ContainerSpec, secret: Path) -> None:
    """CVE-2024-21626's kind: standard input was the container's /dev/null, opened with the supervisor's descriptors."""
    for number, goal in enumerate(ways_out(secret)):
        spoil(lab, victim, f"rm -f /dev/null; ln -s {goal} /dev/null", f"s{number}")
        script = "head -c 100; [ -c /proc/self/fd/0 ] && echo and it is a device; echo forged >&0"
        _, text = exec_output(lab, victim, command("/bin/busybox", "sh", "-c", script), f"n{number}")
        assert text == "and it is a device\n", goal
    assert secret.read_text() == SECRET


@needs_root
def test_the_null_device_stays_the_hosts(lab: Lab, victim: ContainerSpec) -> None:
    """Pipes are given to the container's user; the null device is shared, and is not."""
    before = os.stat("/dev/null")
    _, text = exec_output(lab, victim, command("/bin/busybox", "id", "-u", user="web"), "o1")
    assert text == "1000\n"
    assert (os.stat("/dev/null").st_uid, os.stat("/dev/null").st_mode) == (before.st_uid, before.st_mode)


@needs_root
@pytest.mark.parametrize("file", ["passwd", "group"])
def test_exec_looks_users_up_in_the_container_only(lab: Lab, victim: ContainerSpec, tmp_path: Path, file: str) -> None:
    theirs = tmp_path / file
    theirs.write_text("intruder:x:4242:4242::/:/bin/sh\n")
    user = {"passwd": "intruder", "group": "0:intruder"}[file]
    for number, goal in enumerate(ways_out(theirs)):
        spoil(lab, victim, f"rm -f /etc/{file}; ln -s {goal} /etc/{file}", f"s{file}{number}")
        with pytest.raises(Exception, match="unable to find"):
            lab.client.exec(victim["id"], command("id", user=user), f"u{file}{number}")


@needs_root
@pytest.mark.parametrize("file", ["passwd", "group"])
def test_run_looks_users_up_in_the_image_only(lab: Lab, tmp_path: Path, file: str) -> None:
    theirs = tmp_path / file
    theirs.write_text("intruder:x:4242:4242::/:/bin/sh\n")
    user = {"passwd": "intruder", "group": "0:intruder"}[file]
    for goal in ways_out(theirs):
        spec = lab.spec("id", user=user)
        (Path(spec["rootfs"]["upper"]) / "etc").mkdir()
        (Path(spec["rootfs"]["upper"]) / "etc" / file).symlink_to(goal)
        with pytest.raises(Exception, match="unable to find"):
            lab.client.start(spec)


def test_a_huge_passwd_file_is_not_read_to_its_end(lab: Lab) -> None:
    spec = lab.spec("id", user="late")
    (Path(spec["rootfs"]["upper"]) / "etc").mkdir()
    with (Path(spec["rootfs"]["upper"]) / "etc/passwd").open("w") as file:
        file.truncate(1 << 40)
        file.seek(1 << 40)
        file.write("\nlate:x:0:0::/:\n")
    with pytest.raises(Exception, match="unable to find user late"):
        lab.client.start(spec)


def test_the_hosts_interpreter_can_not_be_written_through_a_container(lab: Lab) -> None:
    """CVE-2019-5736: what a container gets as /proc/self/exe of a process of ours is on a read-only mount."""
    assert os.statvfs(f"/proc/{lab.pid}/exe").f_flag & os.ST_RDONLY
    with pytest.raises(OSError):
        os.close(os.open(f"/proc/{lab.pid}/exe", os.O_WRONLY))


@needs_root
@pytest.mark.parametrize("directory", [False, True])
def test_a_volume_on_dev_does_not_choose_what_covers_masked_paths(
    lab: Lab, tmp_path: Path, secret: Path, directory: bool
) -> None:
    """CVE-2025-31133 without a race: /dev/null of a volume mounted on /dev covered /proc/keys, with the host's root."""
    volume = tmp_path / "dev"
    volume.mkdir()
    goal = secret.parent if directory else secret
    for name in ("null", "zero", "pts", "shm", "mqueue", "console", "ptmx", "fd"):
        (volume / name).symlink_to(goal)
    spec = lab.spec("sh", "-c", "cat /proc/keys /proc/timer_list /proc/sched_debug; echo forged > /proc/keys")
    spec["mounts"].append(bind(volume, "/dev"))
    lab.client.start(spec)
    result = lab.finish(spec)
    assert SECRET not in result.out + result.err
    assert secret.read_text() == SECRET


@needs_root
@pytest.mark.parametrize("target", ["/dev/pts", "/dev"])
def test_the_console_is_the_terminal_whatever_a_volume_says(
    lab: Lab, tmp_path: Path, secret: Path, target: str
) -> None:
    """CVE-2025-52565: /dev/pts/0 of a volume mounted there was bound on /dev/console, with the host's root."""
    volume = tmp_path / "volume"
    for folder in ("", "pts"):
        (volume / folder).mkdir(parents=True)
        (volume / folder / "0").symlink_to(secret)
    spec = lab.spec("sh", "-c", "stat -c %t:%T /dev/console; read x </dev/console; echo got $x", tty=True)
    spec["mounts"].append(bind(volume, target))
    started = lab.client.start(spec)
    assert started.pid
    (master,) = lab.client.attach(spec["id"])
    os.write(master, b"typed\n")
    os.close(master)
    event = lab.wait("exited", spec["id"])
    assert event["exit_code"] == 0
    result = lab.finish(spec)
    assert "88:0" in result.lines
    assert result.lines[-1] == "got typed"
    assert secret.read_text() == SECRET


@needs_root
@pytest.mark.parametrize("target", ["/dev/shm", "/dev/mqueue", "/dev/pts"])
def test_volumes_below_dev_are_mounted_in_the_container(lab: Lab, tmp_path: Path, secret: Path, target: str) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "0").symlink_to(secret)
    spec = lab.spec("sh", "-c", f"echo here > {target}/made; cat {target}/0")
    spec["mounts"].append(bind(volume, target))
    lab.client.start(spec)
    result = lab.finish(spec)
    assert (volume / "made").read_text() == "here\n"
    assert result.code == 1
    assert SECRET not in result.out


@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "/proc/self/attr", "/link", "/link/sys"])
def test_nothing_is_mounted_inside_proc(lab: Lab, tmp_path: Path, target: str) -> None:
    """A lie told there would be believed by everything that reads /proc (runc refuses it too)."""
    volume = tmp_path / "proc"
    volume.mkdir()
    spec = lab.spec("true")
    Path(spec["rootfs"]["upper"], "link").symlink_to("/proc")
    spec["mounts"].append(bind(volume, target))
    with pytest.raises(Exception, match="cannot be mounted because it is inside /proc"):
        lab.client.start(spec)


@needs_root
def test_a_device_is_made_in_the_container_whatever_links_say(lab: Lab, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    spec: Any = lab.spec(
        "stat",
        "-c",
        "%t:%T",
        f"{outside}/full",
        devices=[{"source": "/dev/full", "target": "/way/full", "access": "rwm"}],
    )
    Path(spec["rootfs"]["upper"], "way").symlink_to(outside)
    lab.client.start(spec)
    assert lab.finish(spec).out == "1:7\n"
    assert not list(outside.iterdir())
    made = Path(spec["rootfs"]["upper"]) / str(outside / "full").lstrip("/")
    assert stat.S_ISCHR(made.lstat().st_mode)
