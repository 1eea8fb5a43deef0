"""``top`` and ``stats``: what runs in a container and what it uses, from /proc and the supervisor's cgroup numbers."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...netlib.errors import InternalError, InvalidArgument, PynetError
from ...runtime.client import SupervisorClient
from ..machine import memory_total
from ..times import NEVER, rfc3339
from .record import Container

_TICKS = os.sysconf("SC_CLK_TCK")


# -- top ---------------------------------------------------------------------------------------------------------


def top(pids: Sequence[int], arguments: str) -> dict[str, Any]:
    """``{"Titles", "Processes"}``.  ``-ef`` (the default) is read from /proc; anything else is ps's work."""
    if "\0" in arguments:
        raise InvalidArgument("ps_args must not have NUL bytes")
    if arguments in ("", "-ef"):
        titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        rows = [row for pid in sorted(pids) if (row := _process(pid)) is not None]
        return {"Titles": titles, "Processes": rows}
    try:
        output = subprocess.run(
            ["ps", *arguments.split()], capture_output=True, text=True, timeout=10, check=True, errors="replace"
        ).stdout
    except FileNotFoundError:
        raise InvalidArgument("ps is not installed on the host, only -ef works without it") from None
    except subprocess.CalledProcessError as error:
        raise InvalidArgument(f"ps: {error.stderr.strip() or error}") from None
    except subprocess.TimeoutExpired:
        raise InternalError("ps did not end within 10 s") from None
    return select_rows(output, set(pids))


def select_rows(output: str, pids: set[int]) -> dict[str, Any]:
    """The lines of ps that are about *pids*; InvalidArgument when there is no PID column to tell."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    at = titles.index("PID")
    rows: list[list[str]] = []
    for line in lines[1:]:
        words = line.split(None, len(titles) - 1)
        if len(words) > at and words[at].isdigit() and int(words[at]) in pids:
            rows.append(words)
    return {"Titles": titles, "Processes": rows}


def _process(pid: int) -> list[str] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None  # it ended while we looked
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    command = raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace") or f"[{name}]"
    seconds = (int(fields[11]) + int(fields[12])) // _TICKS
    started = _boot_time() + int(fields[19]) / _TICKS
    spent = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    begun = time.strftime("%H:%M", time.localtime(started))
    return [_user(uid), str(pid), fields[1], "0", begun, _terminal(int(fields[4])), spent, command]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _terminal(number: int) -> str:
    """tty_nr of proc_pid_stat(5): Unix 98 pseudo-terminals have majors 136 to 143."""
    major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    return f"pts/{(major - 136) * 256 + minor}" if 136 <= major <= 143 else "?"


def _boot_time() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


# -- stats -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Numbers at one moment; all zero when the container does not run."""

    time: float
    cpu: int
    """Nanoseconds used by the container."""
    system: int
    """Nanoseconds used by the host's processors."""
    usage: dict[str, Any]
    interfaces: dict[str, dict[str, int]]


def sample(supervisor: SupervisorClient, container: Container) -> Sample:
    usage: dict[str, Any] = {}
    interfaces: dict[str, dict[str, int]] = {}
    if container.running and container.state.pid:
        try:
            usage = supervisor.stats(container.id)
        except PynetError:
            pass  # it ended just now: zeros, as for any container that does not run
        try:
            interfaces = parse_net_dev(Path(f"/proc/{container.state.pid}/net/dev").read_text())
        except OSError:
            pass
        if container.network_mode == "host":
            interfaces = {}
    return Sample(time.time(), int(usage.get("cpu") or 0), system_cpu(), usage, interfaces)


_NET_DEV: tuple[str, ...] = (
    "rx_bytes",
    "rx_packets",
    "rx_errors",
    "rx_dropped",
    "tx_bytes",
    "tx_packets",
    "tx_errors",
    "tx_dropped",
)


def parse_net_dev(text: str) -> dict[str, dict[str, int]]:
    """/proc/net/dev without the loopback: eight numbers received, eight sent, of which four each are shown."""
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        values = [int(value) for value in numbers.split()]
        if name.strip() != "lo" and len(values) >= 12:
            found[name.strip()] = dict(zip(_NET_DEV, values[:4] + values[8:12], strict=True))
    return found


def system_cpu() -> int:
    """Nanoseconds that the host's processors spent, all kinds together (moby, daemon/stats_unix.go)."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(value) for value in first[1:9]) * 1_000_000_000 // _TICKS


def _cpu_shape(sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return {"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
                "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}}  # fmt: skip
    return {
        "cpu_usage": {"total_usage": sample.cpu, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "system_cpu_usage": sample.system,
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }


def stats_shape(container: Container, current: Sample, previous: Sample | None) -> dict[str, Any]:
    usage = current.usage
    memory: dict[str, Any] = {}
    if usage.get("memory") is not None:
        limit = usage.get("memory_limit") or 0
        total = memory_total()
        memory = {"usage": usage["memory"], "limit": limit if 0 < limit < total else total, "stats": {}}
        if usage.get("memory_max"):
            memory["max_usage"] = usage["memory_max"]
    pids = {"current": usage["pids"]} if usage.get("pids") is not None else {}
    shape: dict[str, Any] = {
        "name": f"/{container.name}",
        "id": container.id,
        "read": rfc3339(current.time),
        "preread": rfc3339(previous.time) if previous else NEVER,
        "num_procs": 0,
        "pids_stats": pids,
        "blkio_stats": {"io_service_bytes_recursive": None, "io_serviced_recursive": None},
        "storage_stats": {},
        "cpu_stats": _cpu_shape(current),
        "precpu_stats": _cpu_shape(previous),
        "memory_stats": memory,
    }
    if current.interfaces:
        shape["networks"] = current.interfaces
    return shape
