"""From a specification to what a child is told: checked, every descriptor opened, all errors are exceptions here.

What may hang is not opened here but by the child: the sources of the user's mounts, and what they hide; devices.
"""

from __future__ import annotations

import os
import resource

from ...netlib.kernel import syscall as k
from .. import linux
from ..child import order
from ..grammar import capabilities, environment, sysctls, tmpfs, ulimits
from ..spec import PROPAGATIONS, ContainerSpec, ExecSpec, Mount
from . import rootfs, seccomp
from .errors import StartError
from .host import Host

_INITS = (
    "/usr/bin/docker-init",
    "/sbin/docker-init",
    "/usr/bin/tini-static",
    "/usr/bin/catatonit",
    "/usr/libexec/catatonit/catatonit",
)
"""All are linked statically: they run in an image that has no libraries."""


class Descriptors:
    """Opened for a child; the supervisor's copies are closed after the clone, whatever happened."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def add(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def _capability_mask(host: Host, names: list[str], privileged: bool) -> int:
    if privileged:
        return host.bounding
    try:
        wanted = capabilities.mask(names)
    except ValueError as error:
        raise StartError(str(error)) from None
    if not host.devices_guarded:
        # nothing else would keep a container from making and opening a node of the host's disk
        wanted &= ~capabilities.mask(["MKNOD"])
    return wanted & host.bounding


def _rlimits(host: Host, wanted: list[tuple[str, int, int]], warnings: list[str]) -> list[tuple[int, int, int]]:
    result = {resource.RLIMIT_NOFILE: host.files_limit}
    for name, soft, hard in wanted:
        try:
            kind = ulimits.check(name, soft, hard)
        except ValueError as error:
            raise StartError(str(error)) from None
        ceiling = resource.getrlimit(kind)[1]
        may_raise = host.permitted & capabilities.mask(["SYS_RESOURCE"]) and not host.user_namespace
        if ceiling != resource.RLIM_INFINITY and not may_raise and (hard == -1 or hard > ceiling):
            warnings.append(f"ulimit {name.lower()}: {hard} is above this machine's hard limit, {ceiling} is used")
            hard, soft = ceiling, ceiling if soft == -1 else min(soft, ceiling)
        result[kind] = (soft, hard)
    return [(kind, soft, hard) for kind, (soft, hard) in result.items()]


def _fill_process(host: Host, process: order.Process, spec: ContainerSpec, privileged: bool) -> None:
    process.capabilities = _capability_mask(host, spec["capabilities"], privileged)
    process.permitted, process.null = host.permitted, host.null
    process.no_new_privileges = spec["no_new_privileges"]
    process.tolerant = host.user_namespace
    if not privileged and spec["seccomp"] != "unconfined":
        try:
            process.seccomp = seccomp.program(spec["seccomp"], process.capabilities)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise StartError(f"seccomp profile: {error}") from None  # JSON may be endless in depth, or a number in size


def _mount(item: Mount) -> order.Mount:
    if item["propagation"] not in PROPAGATIONS:
        raise StartError(f"invalid mount propagation {item['propagation']!r}")
    mount = order.Mount(item["target"], item["propagation"], readonly=item["readonly"])
    if item["type"] == "tmpfs":
        mount.options, mount.attributes = tmpfs.options(item["options"])
    elif item["type"] == "bind":
        mount.source, mount.recursive = item["source"], item["recursive"]
    else:
        raise StartError(f"unknown mount type {item['type']!r}")
    return mount


def _depth(item: Mount) -> int:
    return len([part for part in item["target"].split("/") if part])


def _find_init() -> str:
    for path in _INITS:
        if os.access(path, os.X_OK):
            return path
    raise StartError("--init: no init program on this machine (install catatonit or tini-static)")


def launch(host: Host, spec: ContainerSpec, keep: Descriptors, warnings: list[str]) -> order.Launch:
    """A container's first process.  *keep* owns what is opened for it; what the machine can not give is a warning."""
    child = order.Launch()
    if not spec["args"] or not spec["args"][0]:
        raise StartError("no command specified")
    child.args = list(spec["args"])
    child.env = environment.environment(spec["env"], hostname=spec["hostname"], tty=spec["tty"])
    child.cwd = spec["cwd"] or "/"
    if not child.cwd.startswith("/"):
        raise StartError(f"the working directory '{child.cwd}' is invalid, it needs to be an absolute path")
    child.user, child.groups = spec["user"], list(spec["groups"])
    child.hostname, child.place = spec["hostname"], host.place
    child.privileged, child.readonly = spec["privileged"], spec["rootfs"]["readonly"]
    child.shm_size, child.cgroup2 = spec["shm_size"], host.cgroup2
    child.oom_score_adj = spec["oom_score_adj"] or None
    child.rlimits = _rlimits(host, spec["rlimits"], warnings)
    _fill_process(host, child, spec, spec["privileged"])
    for name, value in spec["sysctls"].items():
        child.sysctls.append((sysctls.check(name, own_network=bool(spec["netns"])), value))
    if not spec["privileged"]:
        child.masked, child.read_only_paths = list(spec["masked_paths"]), list(spec["readonly_paths"])
    if spec["netns"]:
        child.netns = keep.add(os.open(spec["netns"], os.O_RDONLY | os.O_CLOEXEC))
    guarded = host.devices_guarded or host.user_namespace or spec["privileged"]
    child.root = keep.add(rootfs.make_overlay(spec["rootfs"], user_namespace=host.user_namespace, devices=guarded))
    for item in sorted(spec["mounts"], key=_depth):
        child.mounts.append(_mount(item))
    child.devices = [(item["source"], item["target"] or item["source"], item["access"]) for item in spec["devices"]]
    child.host_devices = spec["privileged"]
    if spec["init"]:
        child.init = keep.add(linux.open_tree(k.AT_FDCWD, os.path.realpath(_find_init())))
        linux.mount_setattr(child.init, set=k.MOUNT_ATTR_RDONLY)
        child.args = ["/sbin/docker-init", "--", *child.args]
    child.devpts = keep.add(rootfs.make_devpts())
    return child


def join(host: Host, spec: ContainerSpec, process: ExecSpec) -> order.Join:
    """A process that joins a container."""
    child = order.Join()
    child.args = [str(word) for word in process["args"]]
    if not child.args or not child.args[0]:
        raise StartError("No exec command specified")
    child.tty = process["tty"]
    child.env = environment.environment([*spec["env"], *process["env"]], hostname=spec["hostname"], tty=child.tty)
    child.cwd = process["cwd"] or spec["cwd"] or "/"
    child.user, child.groups = process["user"] or spec["user"], list(spec["groups"])
    child.rlimits = _rlimits(host, spec["rlimits"], [])
    _fill_process(host, child, spec, process["privileged"] or spec["privileged"])
    return child
