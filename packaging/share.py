"""What is installed beside the modules, made when a wheel is built: manual pages and the shells' completion scripts.

    share/man/man1/pynet*.1
    share/bash-completion/completions/pynet    share/zsh/site-functions/_pynet    share/fish/vendor_completions.d/pynet.fish

Hatchling loads this file as a build hook.  The pages come from the tree that is being built and not from a pynet that may be
installed, so a child process (this file again) imports the tree's rooms as the package; they need nothing but the standard
library.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # the child: -I leaves the build's environment, or there is none
    BuildHookInterface = object

COMPLETIONS = {
    "bash": "share/bash-completion/completions/pynet",
    "zsh": "share/zsh/site-functions/_pynet",
    "fish": "share/fish/vendor_completions.d/pynet.fish",
}
MANUAL = "share/man/man1"


class ShareHook(BuildHookInterface):  # type: ignore[misc,type-arg,unused-ignore]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._made = tempfile.TemporaryDirectory(prefix="pynet-share-")
        target = Path(self._made.name)
        subprocess.run([sys.executable, "-I", __file__, self.root, str(target)], check=True, timeout=60)
        for path in sorted(target.rglob("*")):
            if path.is_file():
                build_data["shared_data"][str(path)] = str(path.relative_to(target))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._made.cleanup()


def write(root: Path, target: Path) -> None:
    """Write all of it below *target*, from the tree at *root*."""
    package = ModuleType("pynet")
    package.__path__ = [str(root)]
    sys.modules["pynet"] = package
    script: Any = import_module("pynet.cli.completion").script
    pages: Any = import_module("pynet.cli.manual").pages
    # reproducible-builds.org/docs/source-date-epoch
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))

    files = {f"{MANUAL}/{name}": text for name, text in pages((root / "docs/cli.md").read_text(), date).items()}
    files |= {where: script(shell) for shell, where in COMPLETIONS.items()}
    for name, text in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    write(Path(sys.argv[1]), Path(sys.argv[2]))
