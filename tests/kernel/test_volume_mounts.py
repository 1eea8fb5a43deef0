"""Volumes on which somebody mounted something."""

from __future__ import annotations

from pathlib import Path

import pytest

from pynet.engine.events import EventBus
from pynet.engine.filters import Filters
from pynet.engine.reserve import Reserve
from pynet.engine.volumes import Volumes
from pynet.netlib.errors import InternalError
from pynet.netlib.kernel.syscall import MNT_DETACH, mount, umount2
from pynet.netlib.store.sqlite import Store
from pynet.plugins.testhost import Host


def test_a_busy_volume_stays_whole_and_a_prune_goes_on(tmp_path: Path, host: Host) -> None:
    store = Store(tmp_path / "pynet.db")
    volumes = Volumes(store, Reserve(tmp_path), tmp_path, EventBus(), lambda name, but: [])
    for name in ("busy", "free"):
        volumes.create(name)
    (tmp_path / "volumes/busy/_data/file").write_text("below")
    target = str(tmp_path / "volumes/busy")
    mount("none", target, "tmpfs")
    try:
        Path(target, "mounted").write_text("kept")
        with pytest.raises(InternalError, match="remove busy") as raised:
            volumes.remove("busy")
        assert target in raised.value.hint
        assert volumes.prune(Filters({"all": ["true"]}))["VolumesDeleted"] == ["free"]
        assert Path(target, "mounted").read_text() == "kept"
    finally:
        umount2(target, MNT_DETACH)
    assert [shown["Name"] for shown in volumes.usage()] == ["busy"]
    assert (tmp_path / "volumes/busy/_data/file").read_text() == "below"
    volumes.remove("busy")
    store.close()
