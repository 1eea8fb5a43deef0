"""A suite of its own for a pytest of its own: how tests of test fixtures see them fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def run_suite(
    directory: Path, source: str, *options: str, prefix: tuple[str, ...] = (), autoload: bool = False
) -> tuple[dict[str, int], str]:
    """Run *source* as a suite; return (how many of each outcome, the output)."""
    (directory / "test_suite.py").write_text(source)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--rootdir=.", *options, "test_suite.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    if not autoload:  # other plugins take a second to load
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        environment["PYTEST_PLUGINS"] = "pynet.plugins.pytest_plugin"
    result = subprocess.run(
        [*prefix, *argv], cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    outcomes = re.findall(r"(\d+) (passed|failed|skipped|errors?)", result.stdout)
    return {word.rstrip("s"): int(count) for count, word in outcomes}, result.stdout + result.stderr
