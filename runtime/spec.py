"""What the supervisor is told about a container: one JSON object, a subset of the OCI runtime specification in spirit.

The engine makes it, the supervisor keeps it (``<run>/containers/<id>/spec.json``) so that a restart policy works while
the daemon is away.  Every key is present; ``None`` and empty mean "not set".  No path in it is ever resolved as a
string inside the container's tree: targets are opened below the new root (openat2 RESOLVE_IN_ROOT).
"""

from __future__ import annotations

from typing import Literal, TypedDict


class RootFS(TypedDict):
    """The overlay that becomes ``/``."""

    lower: list[str]
    """Unpacked layers, topmost first (absolute paths)."""
    upper: str
    work: str
    readonly: bool


class Mount(TypedDict):
    type: Literal["bind", "tmpfs"]
    source: str
    """Host path for a bind (must exist), empty for a tmpfs."""
    target: str
    """Absolute path in the container; made when missing (a directory, or a file when the source is one)."""
    readonly: bool
    recursive: bool
    propagation: str
    """"", "private", "rprivate", "slave", "rslave", "shared" or "rshared"."""
    options: str
    """tmpfs(5) options, e.g. "size=64m,mode=1777"."""


class Device(TypedDict):
    """A device node of the host that is made in the container."""

    source: str
    """Path on the host."""
    target: str
    """Path in the container; "" is the same."""
    access: str
    """"rwm" or fewer: what the device cgroup allows."""


class Limits(TypedDict):
    memory: int
    """Bytes; 0 is no limit."""
    memory_swap: int
    """Memory plus swap in bytes; 0 is twice the memory, -1 no limit."""
    nano_cpus: int
    """1e9 is one CPU; 0 is no limit."""
    cpu_shares: int
    cpuset_cpus: str
    pids: int
    """0 or -1 is no limit."""


class Restart(TypedDict):
    name: Literal["no", "on-failure", "always", "unless-stopped"]
    max: int
    """Most retries for on-failure; 0 is no limit."""


class ContainerSpec(TypedDict):
    id: str
    name: str
    args: list[str]
    env: list[str]
    """"KEY=value", in order; later wins."""
    cwd: str
    """Made when missing, as Docker does."""
    user: str
    """"", "uid", "name", "uid:gid", "name:group": looked up in the container's own files."""
    groups: list[str]
    hostname: str
    rootfs: RootFS
    mounts: list[Mount]
    netns: str
    """Path of the pinned network namespace; "" is the supervisor's own (host network)."""
    limits: Limits
    cgroup: str
    """Relative cgroup path, e.g. "pynet/<instance>/<id>"."""
    capabilities: list[str]
    """Without CAP_, e.g. "NET_RAW": bounding, permitted and effective."""
    privileged: bool
    """All capabilities, no seccomp, no masked paths, host devices."""
    no_new_privileges: bool
    seccomp: str
    """"default", "unconfined", or the text of a profile in Docker's JSON format."""
    masked_paths: list[str]
    readonly_paths: list[str]
    devices: list[Device]
    sysctls: dict[str, str]
    rlimits: list[tuple[str, int, int]]
    """("NOFILE", soft, hard)."""
    oom_score_adj: int
    tty: bool
    open_stdin: bool
    stdin_once: bool
    init: bool
    shm_size: int
    stop_signal: int
    stop_timeout: int
    """Seconds between the stop signal and KILL."""
    restart: Restart
    log: str
    """Absolute path of the json-file log ({"log","stream","time"} a line); "" writes none."""
    hold: bool
    """Keep the supervisor's record after the exit until ``remove`` (always true for the engine)."""


class ExecSpec(TypedDict):
    """A process that joins a running container."""

    args: list[str]
    env: list[str]
    """Beside the container's own; later wins."""
    cwd: str
    """"" is the container's, as for the user."""
    user: str
    tty: bool
    size: tuple[int, int] | None
    """(lines, columns) of the terminal before the program begins."""
    privileged: bool
    stdin: bool
    """Whether it has an input; without one it reads the null device."""


PROPAGATIONS = ("", "private", "rprivate", "slave", "rslave", "shared", "rshared")
UNKNOWN_EXIT = 255
"""The exit code of what ended while nobody could see it."""
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
"""Name, major and minor of the device nodes that every container has (OCI runtime-spec, config-linux, default devices)."""

DEFAULT_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip
"""Docker's default set (moby, oci/caps/defaults.go)."""

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
