"""pynet in a bed: the installed command, which starts the daemon when it is first needed."""

from __future__ import annotations

import sys
from pathlib import Path

from bed import Process, remove_cgroups
from peer import Peer, is_program

from pynet.netlib.instance import Instance


class Pynet(Peer):
    name = "pynet"

    def __init__(self) -> None:
        super().__init__()
        self._root, self._run = f"/mnt/{self.bed.cgroup}", "/run/pynet"

    def command(self) -> list[str]:
        script = Path(sys.executable).with_name("pynet")
        return [str(script)] if script.exists() else [sys.executable, "-I", "-m", "pynet"]

    def environment(self) -> dict[str, str]:
        return {"PYNET_ROOT": self._root, "PYNET_RUN": self._run, "PYNET_HOST": f"unix://{self._run}/pynet.sock"}

    def start(self) -> None:
        self.run("image", "bootstrap")
        self.run("version")

    def show_log(self) -> None:
        try:
            log = self.bed.run("tail", "-n", "15", f"{self._run}/pynetd.log", check=False)
        except Exception:
            return
        print(f"-- the end of pynetd's log\n{log.out or log.err}", flush=True)

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)  # type: ignore[arg-type]
        remove_cgroups(Instance.at(self._root, self._run).cgroup)

    def owns(self, process: Process) -> bool:
        return is_program(process, *(f"python{v}" for v in ("", "3", f"3.{sys.version_info[1]}"))) and (
            " -m pynet." in process.command
        )

    idle = owns
