"""Which kernel parameters a container may set: those that its own namespaces hold (as Docker and runc check)."""

from __future__ import annotations

_IPC = {
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
    "kernel.shm_rmid_forced",
}  # fmt: skip
_UTS = {"kernel.domainname"}
"""Not kernel.hostname: the specification has a name of its own."""


def path(name: str) -> str:
    """The file below /proc/sys; as sysctl(8), the first separator says whether "." or "/" parts the name."""
    dot, slash = name.find("."), name.find("/")
    if slash == -1 or (dot != -1 and dot < slash):
        return name.translate(str.maketrans("./", "/."))
    return name


def check(name: str, *, own_network: bool) -> str:
    """The file of an allowed parameter; ValueError says why another is refused."""
    file = path(name)
    parts = file.split("/")
    if not name or "" in parts or "." in parts or ".." in parts:
        raise ValueError(f"invalid sysctl name {name!r}")
    dotted = ".".join(parts) if parts[0] != "net" else "net."
    if dotted == "net.":
        if not own_network:
            raise ValueError(f"sysctl {name!r} not allowed in host network namespace")
        return file
    if dotted in _IPC or dotted in _UTS or dotted.startswith("fs.mqueue."):
        return file
    raise ValueError(f"sysctl {name!r} is not in a separate kernel namespace")
