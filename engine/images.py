"""Images as the Engine API shows them, over the runtime's store.

There is no registry yet: a pull of an image that is here succeeds quietly, any other says that it can not be pulled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..netlib.errors import NotFound, NotSupported, PynetError
from ..runtime.images.model import Image
from ..runtime.images.store import ImageStore
from .events import EventBus
from .filters import Filters
from .reserve import Reserve
from .times import rfc3339

Shapes = list[dict[str, Any]]
LIST_FILTERS = frozenset({"dangling", "label", "before", "since", "reference", "until"})
PRUNE_FILTERS = frozenset({"dangling", "until", "label", "label!"})


class PullNotSupported(NotSupported):
    """There is no registry client; 404 makes clients tell it as "not found"."""

    status = 404
    hint = "make it with: pynet image bootstrap, pynet import ROOTFS.tar NAME, or pynet load"

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"pull access denied for {reference}: registries are not supported yet and no such image is here"
        )


def _created(image: Image) -> str:
    return image.created or rfc3339(0)


def summary_shape(image: Image, containers: int) -> dict[str, Any]:
    return {
        "Containers": containers,
        "Created": image.created_unix,
        "Id": image.id,
        "Labels": image.defaults.get("Labels"),
        "ParentId": "",
        "RepoDigests": list(image.repo_digests),
        "RepoTags": list(image.repo_tags),
        "SharedSize": -1,
        "Size": image.size,
    }


def inspect_shape(image: Image, lower: list[str]) -> dict[str, Any]:
    return {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": "",
        "Comment": "",
        "Created": _created(image),
        "DockerVersion": "",
        "Author": image.config.get("author", ""),
        "Config": image.defaults,
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Name": "overlay2", "Data": {"LowerDir": ":".join(lower)}},
        "RootFS": {"Type": "layers", "Layers": image.config.get("rootfs", {}).get("diff_ids", [])},
        "Metadata": {"LastTagTime": rfc3339(0)},
    }


class Images:
    """*users* tells the containers: (container id, image id, running)."""

    def __init__(
        self, store: ImageStore, reserve: Reserve, events: EventBus, users: Callable[[], list[tuple[str, str, bool]]]
    ) -> None:
        self.store = store
        self._reserve = reserve
        self._events = events
        self._users = users

    def count(self) -> int:
        return len(self.store.list())

    def summaries(
        self, *, all: bool = False, filters: Filters | None = None, until: Callable[[str], float] | None = None
    ) -> list[dict[str, Any]]:
        """``GET /images/json``, newest first."""
        filters = (filters or Filters()).allow(LIST_FILTERS)
        users = self._users()
        dangling = filters.flag("dangling")
        before = min((self.store.get(ref).created_unix for ref in filters.values("before")), default=None)
        since = max((self.store.get(ref).created_unix for ref in filters.values("since")), default=None)
        end = min((until(text) for text in filters.values("until")), default=None) if until else None
        shown: list[dict[str, Any]] = []
        for image in self.store.list():
            if dangling is not None and dangling == bool(image.repo_tags):
                continue
            if (before is not None and image.created_unix >= before) or (
                since is not None and image.created_unix <= since
            ):
                continue
            if end is not None and image.created_unix > end:
                continue
            if not filters.labels(image.defaults.get("Labels") or {}):
                continue
            entry = summary_shape(image, sum(1 for _, id, _ in users if id == image.id))
            if filters.values("reference"):
                entry["RepoTags"] = [t for t in image.repo_tags if matches_reference(t, filters.values("reference"))]
                if not entry["RepoTags"]:
                    continue
            shown.append(entry)
        return shown

    def inspect(self, ref: str) -> dict[str, Any]:
        image = self.store.get(ref)
        return inspect_shape(image, [self.store.layers.diff(chain) for chain in reversed(image.layers)])

    def history(self, ref: str) -> list[dict[str, Any]]:
        image = self.store.get(ref)
        entries: list[dict[str, Any]] = []
        sizes = iter(self.store.layers.get(chain).size for chain in image.layers)
        for step in image.config.get("history") or [{}]:
            entries.append(
                {
                    "Id": "<missing>",
                    "Created": image.created_unix,
                    "CreatedBy": step.get("created_by", ""),
                    "Tags": None,
                    "Size": 0 if step.get("empty_layer") else next(sizes, 0),
                    "Comment": step.get("comment", ""),
                }
            )
        entries.reverse()
        entries[0] |= {"Id": image.id, "Tags": list(image.repo_tags) or None}
        return entries

    def tag(self, ref: str, repo: str, tag: str) -> None:
        image = self.store.tag(ref, f"{repo}:{tag}" if tag else repo)
        self._tell("tag", image.id, f"{repo}:{tag or 'latest'}")

    def remove(self, ref: str, *, force: bool = False) -> list[dict[str, str]]:
        removed = self._remove(ref, force)
        for entry in removed:
            for what, id in entry.items():
                self._tell("untag" if what == "Untagged" else "delete", id, id)
        return removed

    def _remove(self, ref: str, force: bool) -> list[dict[str, str]]:
        """A name less is written down before anything is deleted: on a full disk that takes the reserve."""
        removed = self._reserve.spend(self.store.remove, ref, force=force, in_use=self._users())
        self._reserve.make()
        return removed

    def prune(self, filters: Filters, until: Callable[[str], float]) -> dict[str, Any]:
        """Remove images without a name that no container uses; with ``dangling=false``, all that no container uses."""
        filters.allow(PRUNE_FILTERS)
        dangling = filters.flag("dangling")
        end = min((until(text) for text in filters.values("until")), default=None)
        used = {id for _, id, _ in self._users()}
        removed: list[dict[str, str]] = []
        space = 0
        for image in self.store.list():
            labels = image.defaults.get("Labels") or {}
            if image.id in used or (image.repo_tags and dangling is not False):
                continue
            if not (filters.labels(labels) and filters.not_labels(labels)) or (
                end is not None and image.created_unix > end
            ):
                continue
            try:
                removed += self._remove(image.id, True)
                space += image.size
            except PynetError:
                continue  # a container took it just now
        self._events.publish("image", "prune", "", {"reclaimed": str(space)})
        return {"ImagesDeleted": removed or None, "SpaceReclaimed": space}

    # -- streams: run in a thread, yield progress objects ----------------------------------------------------

    def pull(self, reference: str) -> Iterator[dict[str, Any]]:
        try:
            image = self.store.get(reference)
        except NotFound:
            raise PullNotSupported(reference) from None
        yield {"status": f"Status: Image is up to date for {reference}", "id": image.id[7:19]}

    def import_rootfs(self, stream: Any, reference: str, changes: Iterable[str], message: str) -> Shapes:
        """The last line is the image's id, as scripts expect it; before it what could not be kept here."""
        warnings: list[str] = []
        image = self.store.import_rootfs(
            stream, reference, changes=list(changes), message=message, tell=warnings.append
        )
        self._tell("import", image.id, reference or image.id)
        return [*({"status": f"Warning: {text}"} for text in warnings), {"status": image.id}]

    def load(self, stream: Any) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        known = {tag for image in self.store.list() for tag in image.repo_tags}
        for image in self.store.load(stream, tell=lambda text: lines.append({"stream": f"Warning: {text}\n"})):
            # an image that was here under other names keeps them, but they were not loaded
            loaded = tuple(tag for tag in image.repo_tags if tag not in known) or image.repo_tags
            for name in loaded or (image.id,):
                word = "image" if image.repo_tags else "image ID"
                lines.append({"stream": f"Loaded {word}: {name}\n"})
            self._tell("load", image.id, next(iter(image.repo_tags), image.id))
        return lines

    def bootstrap(self, reference: str) -> dict[str, Any]:
        image = self.store.bootstrap(reference or "busybox:latest")
        self._tell("import", image.id, reference or "busybox:latest")
        return {"Id": image.id}

    def _tell(self, action: str, id: str, name: str) -> None:
        self._events.publish("image", action, id, {"name": name})


def matches_reference(tag: str, patterns: list[str]) -> bool:
    """``reference=``: shell patterns over the name, with or without the tag."""
    from fnmatch import fnmatchcase

    name = tag.rpartition(":")[0]
    return any(fnmatchcase(tag, pattern) or fnmatchcase(name, pattern) for pattern in patterns)
