"""Debian's dockerd in a bed: started, loaded with an image of ours, ended with nothing left.

    python bench/dockerd.py [COMMAND ...]      run a command in the bed (default: a shell), DOCKER_HOST set

It needs Debian's ``docker.io`` (dockerd, containerd, runc, docker-proxy, docker).  dockerd is told to keep all state
on the bed's tmpfs and to make its cgroups below the bed's parent by cgroupfs, since there is no systemd to ask.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bed import Process
from peer import Peer, is_program

from pynet.runtime.images.store import ImageStore


class Docker(Peer):
    """The peer.  ``PYNET_BENCH_DOCKER`` names another client than Debian's."""

    name = "docker"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._options = options
        self._client = os.environ.get("PYNET_BENCH_DOCKER", "/usr/bin/docker")

    @staticmethod
    def missing() -> str:
        """What has to be installed before this can be used; "" when nothing."""
        programs = ("dockerd", "containerd", "runc", "docker-proxy")
        absent = [name for name in programs if not shutil.which(name, path=f"/usr/sbin:/sbin:{os.environ['PATH']}")]
        return f"{', '.join(absent)} (Debian: apt install docker.io)" if absent else ""

    @property
    def host(self) -> str:
        """DOCKER_HOST; the socket is seen inside and outside of the bed."""
        return f"unix://{self.bed.path}/docker.sock"

    def command(self) -> list[str]:
        return [self._client]

    def environment(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.host, "DOCKER_CONFIG": f"{self.bed.path}/config"}

    def start(self) -> None:
        self.bed.spawn(
            "dockerd",
            "--host", self.host,
            "--data-root", "/mnt/docker",
            "--exec-root", "/run/docker",
            "--pidfile", "/run/docker.pid",
            "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--cgroup-parent", f"/{self.bed.cgroup}",
            "--storage-driver", "overlay2",
            *self._options,
            env={"PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}", "DOCKER_RAMDISK": "true"},
        )  # fmt: skip
        self.wait_until("version")
        with tempfile.TemporaryDirectory() as root:
            store = ImageStore(root)
            store.bootstrap()
            with open(f"{self.bed.path}/busybox.tar", "wb") as archive:
                store.save(["busybox"], archive)
        self.run("load", "-i", f"{self.bed.path}/busybox.tar")

    def owns(self, process: Process) -> bool:
        return is_program(process, "dockerd", "containerd", "docker-proxy", "containerd-shim-runc-v2")

    def idle(self, process: Process) -> bool:
        return is_program(process, "dockerd", "containerd")


def main() -> None:
    with Docker() as docker:
        pid = next(process.pid for process in docker.bed.processes() if is_program(process, "dockerd"))
        outside = outer_pid(docker, pid)
        command = sys.argv[1:] or [os.environ.get("SHELL", "/bin/sh")]
        environment = os.environ | docker.environment()
        subprocess.run(["nsenter", "-t", str(outside), "-n", "-m", "-p", *command], env=environment, check=False)


def outer_pid(docker: Docker, inner: int) -> int:
    """The pid out here of a process of the bed: NSpid lists both (proc_pid_status(5))."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        pids = next((line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:")), [])
        if text.startswith("Name:\tdockerd") and len(pids) > 1 and int(pids[-1]) == inner:
            command = (status.parent / "cmdline").read_bytes().decode()
            if docker.host in command:
                return int(pids[0])
    raise ProcessLookupError(inner)


if __name__ == "__main__":
    main()
