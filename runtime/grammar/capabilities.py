"""Capabilities by name and mask (capabilities(7), linux/capability.h).  Pure."""

from __future__ import annotations

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""A name's place is the capability's number."""

_NUMBERS = {name: number for number, name in enumerate(NAMES)}


def mask(names: list[str] | tuple[str, ...]) -> int:
    """The bit mask of *names* (with or without CAP_, any case); ValueError names the unknown one."""
    result = 0
    for name in names:
        short = name.upper().removeprefix("CAP_")
        if short not in _NUMBERS:
            raise ValueError(f'Unknown capability: "{name}"')
        result |= 1 << _NUMBERS[short]
    return result


def names(bits: int) -> list[str]:
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]
