"""Which worker of pytest-xdist has which test: the system tests module by module, the largest first, and all others one by one.

What the tests of a module share, mostly a pynetd, is then started once and not by every worker; and at the end of a run
everybody has small work left.  xdist's own groups, which go by a mark, do nothing under pytest 9.2: xdist writes a group's name
into the test's, and pytest does not read it there any more.
"""

from __future__ import annotations

from xdist.scheduler.loadscope import LoadScopeScheduling

SYSTEM = "tests/system/"
DOCKER = (f"{SYSTEM}test_coexistence.py", f"{SYSTEM}test_proxy_standalone_docker.py")
"""Those that start a dockerd: one at a time."""


class ByModule(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        """What must stay together with *nodeid*, by one name."""
        module = nodeid.partition("::")[0]
        if module in DOCKER:
            return "docker"
        return module if module.startswith(SYSTEM) else nodeid
