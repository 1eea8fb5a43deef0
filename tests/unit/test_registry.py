"""The registry beside another writer: a store that is shared tells what others wrote, and the registry follows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from pynet.netlib.model import SandboxRecord
from pynet.netlib.registry import Registry
from pynet.netlib.store.protocol import Changed, Stored
from pynet.netlib.store.sqlite import Store

OTHER = """
import sys
from pathlib import Path
from pynet.netlib.model import SandboxRecord
from pynet.netlib.registry import Registry
from pynet.netlib.store.sqlite import Store
store = Store(Path(sys.argv[1]))
registry = Registry(store)
exec(sys.argv[2])
registry.close()
store.close()
"""


class Shared(Store):
    """SQLite's file with the watch that a store of many hosts has: what is there anew, or is not there any more, when asked."""

    def watch(self, kinds: Sequence[str], tell: Callable[[Iterable[Stored]], None]) -> Callable[[], None]:
        self.kinds, self.tell, self.watched = kinds, tell, True
        self.seen = {(stored.kind, stored.id): stored.revision for kind in kinds for stored in self.load(kind)}

        def end() -> None:
            self.watched = False

        return end

    def look(self) -> list[Stored]:
        """Tell what others wrote since the last look; all that differs, our own writes among it, as such stores do."""
        now = {(stored.kind, stored.id): stored for kind in self.kinds for stored in self.load(kind)}
        newest = max([*self.seen.values(), *(stored.revision for stored in now.values())], default=0)
        changes = [stored for key, stored in now.items() if stored.revision != self.seen.get(key)]
        changes += [Stored(kind, id, None, newest + 1) for kind, id in self.seen.keys() - now.keys()]
        self.seen = {key: stored.revision for key, stored in now.items()}
        self.tell(changes)
        return changes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Shared]:
    store = Shared(tmp_path / "pynet.db")
    yield store
    store.close()


def other(store: Shared, script: str) -> None:
    """Another process opens the store and does that with its registry."""
    subprocess.run([sys.executable, "-I", "-c", OTHER, str(store.path), script], check=True)


def test_what_another_process_writes_is_known_here_once_it_was_told(store: Shared) -> None:
    registry = Registry(store)
    registry.save(SandboxRecord("ours", "/run/ours"))
    other(store, 'registry.save(SandboxRecord("theirs", "/run/theirs"), SandboxRecord("ours", "/run/moved"))')
    assert list(registry.sandboxes) == ["ours"] and registry.sandboxes["ours"].path == "/run/ours"
    with pytest.raises(Changed, match="ours"):
        registry.save(SandboxRecord("ours", "/run/late"))
    assert registry.sandboxes["ours"].path == "/run/ours", "what was refused is not known either"
    assert {stored.id for stored in store.look()} == {"ours", "theirs"}
    assert {id: record.path for id, record in registry.sandboxes.items()} == {
        "ours": "/run/moved",
        "theirs": "/run/theirs",
    }
    registry.save(SandboxRecord("ours", "/run/again"))
    assert {stored.id for stored in store.look()} == {"ours"}, "a write of our own is told as well"
    assert registry.sandboxes["ours"].path == "/run/again"
    other(store, 'registry.save(forget=[registry.sandboxes["ours"]])')
    store.look()
    assert list(registry.sandboxes) == ["theirs"]
    registry.save(SandboxRecord("ours", "/run/new"))
    registry.close()
    assert not store.watched


def test_what_is_told_late_does_not_undo_what_was_written_since(store: Shared) -> None:
    registry = Registry(store)
    registry.save(SandboxRecord("ours", "/run/first"))
    (before,) = store.load("sandbox")
    registry.save(SandboxRecord("ours", "/run/second"))
    store.tell([before, Stored("sandbox", "ours", None, before.revision), Stored("sandbox", "nobodys", None, 1)])
    assert registry.sandboxes["ours"].path == "/run/second"
    registry.close()
