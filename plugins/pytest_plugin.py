"""pytest fixtures for networks of namespaces (docs/testing.md).

    pynet_host   the test runs in a namespace of its own, which plays the host and must end as it began
    pynet_lan    a client on that host's LAN, in a second namespace

``--pynet-isolate`` (or ``pynet_isolate = true`` in the ini file) moves the whole test process into namespaces at the
start: ordinary users get the privileges that the fixtures need, and nothing can reach the machine.  A suite may also
call ``isolate(config)`` from its conftest's pytest_configure.

pytest loads this module wherever pynet is installed, so it imports nothing and does nothing until it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testhost import Host, Lan

_REASON = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run all tests in namespaces of their own (user, network, mount)"
    parser.getgroup("pynet").addoption("--pynet-isolate", action="store_true", help=text)
    parser.addini("pynet_isolate", text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--pynet-isolate") or config.getini("pynet_isolate"):
        isolate(config)


def isolate(config: pytest.Config) -> str:
    """Move the process into namespaces of its own, once; return "" or the reason why that is impossible."""
    reason = config.stash.get(_REASON, None)
    if reason is None:
        from .isolation import isolate as move

        reason = move(may_map_user=not hasattr(config, "workerinput"))
        config.stash[_REASON] = reason
    return reason


@pytest.fixture
def pynet_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A namespace that plays the host: the test runs in it, and it must end as it began."""
    from .testhost import LeftBehind, playing_host

    reason = request.config.stash.get(_REASON, "")
    if reason:
        pytest.skip(reason)
    left = ""
    with ExitStack() as stack:
        try:
            host = stack.enter_context(playing_host())
        except PermissionError as error:
            pytest.skip(f"namespaces need root or --pynet-isolate ({error})")
        try:
            yield host
            stack.close()
        except LeftBehind as error:
            left = str(error)
    if left:  # outside of the handler: the lines alone say it, no traceback does
        pytest.fail(left, pytrace=False)


@pytest.fixture
def pynet_lan(pynet_host: Host) -> Iterator[Lan]:
    """A client on the LAN of the host, joined to it by a veth."""
    from .testhost import playing_lan

    with playing_lan(pynet_host) as lan:
        yield lan
