"""What all tests share: the process lives in namespaces of its own, and ``host`` and ``lan`` are the plugin's fixtures.

Tests below kernel/ and system/ are marked so, and skipped by name where namespaces are forbidden.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pynet.plugins.pytest_plugin import isolate
from pynet.plugins.testhost import Host, Lan

_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    isolate(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = isolate(config)
    for item in items:
        room = item.path.relative_to(_HERE).parts[0] if item.path.is_relative_to(_HERE) else ""
        if room in ("kernel", "system"):
            item.add_marker(room)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def host(pynet_host: Host) -> Host:
    """The namespace that the test runs in; it must end as it began."""
    return pynet_host


@pytest.fixture
def lan(pynet_lan: Lan) -> Lan:
    """A client on the host's LAN."""
    return pynet_lan
