"""Names of images: what may be one, and the index after an image got some.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...netlib.errors import InvalidArgument
from .layout import Named
from .references import Reference


def new_name(reference: str) -> str:
    """The canonical form of a name to be given."""
    parsed = Reference.parse(reference)
    if parsed.digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    if parsed.familiar_name == "sha256":
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    return str(parsed.tagged())


def named(index: Iterable[Named], images: Iterable[tuple[Named, Sequence[str]]]) -> list[Named]:
    """*index* with *images* in it, each under its names, which leave whoever had them.

    An image has a line for each name, or one without a name: also one whose last name went to another (Docker: <none>).
    """
    known = dict.fromkeys(Named(one.manifest, one.size, "") for one in index)
    by_name = {one.name: one for one in index if one.name}
    for image, names in images:
        known[Named(image.manifest, image.size, "")] = None
        for name in names:
            by_name[name] = Named(image.manifest, image.size, name)
    kept = {one.manifest for one in by_name.values()}
    return [*by_name.values(), *(one for one in known if one.manifest not in kept)]
