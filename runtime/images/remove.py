"""Removing an image: Docker's rules and texts (moby, daemon/images/image_delete.go).  Pure: what is there, what shall go.

    by name   the name goes; with its last name the image goes, unless a container uses it
    by id     all names of one repository go with it; names in several repositories need force

A *hard* conflict (a running container) can not be forced; soft ones (a stopped container, several names) can.  With
force, a name is removed even from an image that a running container uses: the image stays, without a name.  Layers
that a container still stands on stay until the container is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .errors import ImageConflict
from .layout import Named
from .model import Image, ImageUser
from .references import Reference

SHORT = 12


class Removal(NamedTuple):
    """What a removal comes to."""

    left: list[Named]
    """The index after it."""
    untagged: list[str]
    """Familiar names that go."""
    deleted: bool
    """Whether the image goes with them."""


def short_id(identity: str) -> str:
    return identity.removeprefix("sha256:")[:SHORT]


def is_id_prefix(identity: str, text: str) -> bool:
    return bool(text) and (identity.startswith(text) or identity.removeprefix("sha256:").startswith(text))


def decide(index: Sequence[Named], image: Image, reference: str, *, force: bool, users: Sequence[ImageUser]) -> Removal:
    """Remove what *reference* names of *image*; raises ImageConflict."""
    using = [user for user in users if user.image == image.id]
    names = [named for named in index if named.manifest == image.manifest and named.name]
    if not is_id_prefix(image.id, reference):
        if using and not force and _single_repository(names):
            raise ImageConflict(
                f'conflict: unable to remove repository reference "{reference}" (must force) - container '
                f"{short_id(using[0].container)} is using its referenced image {short_id(image.id)}",
                hint=f"remove the container first (`pynet rm {short_id(using[0].container)}`)",
            )
        going = _named_by(names, reference)
        if len(going) < len(names) or any(user.running for user in using):
            return _untag(index, going)  # forced, where a container runs: the image stays for it
    else:
        _check(image, using, names, force=force)
    rest = [named for named in index if named.manifest != image.manifest]
    return Removal(rest, _familiar(names), deleted=True)


def _named_by(names: Sequence[Named], reference: str) -> list[Named]:
    parsed = Reference.parse(reference).tagged()
    if parsed.digest:  # a digest names every tag of its repository
        return [named for named in names if Reference.parse(named.name).name == parsed.name]
    return [named for named in names if named.name == str(parsed)]


def _untag(index: Sequence[Named], going: Sequence[Named]) -> Removal:
    after = [named for named in index if named not in going]
    present = {named.manifest for named in after}
    after += [Named(named.manifest, named.size, "") for named in going[:1] if named.manifest not in present]
    return Removal(after, _familiar(going), deleted=False)


def _familiar(names: Sequence[Named]) -> list[str]:
    return [Reference.parse(named.name).familiar for named in names]


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
