"""Removing an image: Docker's rules and texts (moby, daemon/images/image_delete.go).

    by name   the name goes; with its last name the image goes, unless a container uses it
    by id     all names of one repository go with it; names in several repositories need force

A *hard* conflict (a running container) can not be forced; soft ones (a stopped container, several names) can.  With
force, a name is removed even from an image that a running container uses: the image stays, without a name.  Layers
that a container still stands on stay until the container is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import ImageConflict
from .layout import Named
from .references import Reference

if TYPE_CHECKING:
    from .store import Image, ImageStore, ImageUser

SHORT = 12


def short_id(identity: str) -> str:
    return identity.removeprefix("sha256:")[:SHORT]


def is_id_prefix(identity: str, text: str) -> bool:
    return bool(text) and (identity.startswith(text) or identity.removeprefix("sha256:").startswith(text))


def remove(store: ImageStore, reference: str, *, force: bool, users: Sequence[ImageUser]) -> list[dict[str, str]]:
    with store.layers.lock:
        image = store.get(reference)
        using = [user for user in users if user.image == image.id]
        names = [named for named in store.layout.read() if named.manifest == image.manifest and named.name]
        records: list[dict[str, str]] = []
        by_name = not is_id_prefix(image.id, reference)
        if by_name:
            if using and not force and _single_repository(names):
                raise ImageConflict(
                    f'conflict: unable to remove repository reference "{reference}" (must force) - container '
                    f"{short_id(using[0].container)} is using its referenced image {short_id(image.id)}",
                    hint=f"remove the container first (`pynet rm {short_id(using[0].container)}`)",
                )
            going = _named_by(names, reference)
            if len(going) < len(names):
                return _untag(store, going)
            if any(user.running for user in using):
                return _untag(store, going)  # forced: the image stays for its container
        else:
            _check(image, using, names, force=force)
        records += [{"Untagged": Reference.parse(named.name).familiar} for named in names]
        store.layout.write([named for named in store.layout.read() if named.manifest != image.manifest])
        records.append({"Deleted": image.id})
        records += [{"Deleted": chain} for chain in store._prune()]
        return records


def _named_by(names: Sequence[Named], reference: str) -> list[Named]:
    parsed = Reference.parse(reference).tagged()
    if parsed.digest:  # a digest names every tag of its repository
        return [named for named in names if Reference.parse(named.name).name == parsed.name]
    return [named for named in names if named.name == str(parsed)]


def _untag(store: ImageStore, going: Sequence[Named]) -> list[dict[str, str]]:
    before = store.layout.read()
    after = [named for named in before if named not in going]
    present = {named.manifest for named in after}
    after += [Named(named.manifest, named.size, "") for named in going[:1] if named.manifest not in present]
    store.layout.write(after)
    return [{"Untagged": Reference.parse(named.name).familiar} for named in going]


def _check(image: Image, using: Sequence[ImageUser], names: Sequence[Named], *, force: bool) -> None:
    running = [user for user in using if user.running]
    stopped = [user for user in using if not user.running]
    what, manner = "", ""
    if running:
        manner, what = "cannot be forced", f"image is being used by running container {short_id(running[0].container)}"
    elif not force and not _single_repository(names):
        manner, what = "must be forced", "image is referenced in multiple repositories"
    elif not force and stopped:
        manner, what = "must be forced", f"image is being used by stopped container {short_id(stopped[0].container)}"
    if what:
        raise ImageConflict(
            f"conflict: unable to delete {short_id(image.id)} ({manner}) - {what}",
            hint="stop and remove its containers first" if using else "remove its names one by one, or use --force",
        )


def _single_repository(names: Sequence[Named]) -> bool:
    """moby's isSingleReference: at most one tag, whatever digests."""
    return len(names) <= 1
