"""What is put away is deleted a little later, by a thread that sleeps while there is nothing to delete."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.netlib import reaper
from pynet.netlib.instance import Instance
from pynet.netlib.reaper import Reaper
from pynet.plugins.testhost import Host


class Counted(Reaper):
    """Tells how often it looks for what is to be deleted."""

    looks = 0
    once = threading.Event()
    twice = threading.Event()

    def _reap(self) -> None:
        super()._reap()
        self.looks += 1
        self.once.set()
        if self.looks == 2:
            self.twice.set()


@pytest.fixture
def counted(host: Host, tmp_path: Path) -> Iterator[Counted]:
    made = Counted(host.rtnl, Instance.at(tmp_path / "root", tmp_path / "run"))
    made.once, made.twice = threading.Event(), threading.Event()
    yield made
    made.close()


def test_at_its_end_nothing_is_left_that_was_put_away(host: Host, counted: Counted) -> None:
    for number in range(20):
        counted.put_bridge_away(host.rtnl.add_bridge(f"br{number}"))
        counted.put_away(host.rtnl.add_bridge(f"bx{number}"))
    counted.close()
    assert [link.name for link in host.rtnl.links() if link.name != "lo"] == []


def test_it_looks_once_for_each_link_and_then_sleeps(
    host: Host, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "REAP_AFTER", 0.001)
    counted.put_away(host.rtnl.add_bridge("br0"))
    assert not counted.twice.wait(0.3), "nothing has come since the first look"
    assert counted.looks == 1
    assert host.rtnl.link("br0") is None
    counted.put_away(host.rtnl.add_bridge("br0"))
    assert counted.twice.wait(20)


def test_bridges_go_when_nothing_was_put_away_for_a_while(
    host: Host, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, so that each of those who put away more waits for one at most."""
    monkeypatch.setattr(reaper, "REAP_AFTER", 60)
    for number in range(5):
        counted.put_bridge_away(host.rtnl.add_bridge(f"br{number}"))
    assert len([link for link in host.rtnl.links() if link.name.startswith("pd")]) == 5
    counted.settle()
    assert [link.name for link in host.rtnl.links() if link.name != "lo"] == []


def test_bridges_go_at_the_latest_however_many_come(
    host: Host, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "REAP_LATEST", 0.001)
    monkeypatch.setattr(reaper, "REAP_AFTER", 60)
    counted.put_bridge_away(host.rtnl.add_bridge("br0"))
    assert counted.once.wait(20)
    assert [link.name for link in host.rtnl.links() if link.name != "lo"] == []
