"""What all kinds of links share: how strays are found and removed, and whose a link is.

A link of ours is in the instance's link group (instance.py); the dying group's are strays that a killed process left to be
reaped.  A kind of link from another package derives from ``LinkKind`` and puts its links into ``tools.instance.link_group``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from ..kernel.rtnl_links import LinkInfo
from ..tools import Tools
from .kind import Kind
from .resource import Resource
from .sight import Sight

R = TypeVar("R", bound=Resource)


class LinkKind(Kind[R]):
    """Resources whose key is ("link", name of the host's interface)."""

    noun = "link"

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        instance = tools.instance
        groups = (instance.link_group, instance.dying_group, instance.dying_bridges_group)
        wanted = {key[1] for key in sight.keys if key[0] == "link"}
        return sorted(name for name, link in sight.links.items() if link.group in groups and name not in wanted)

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        tools.reaper.delete(sight.links[name].index for name in names)

    def own(self, tools: Tools, name: str) -> LinkInfo | None:
        """The link with this name, if it is ours."""
        link = tools.rtnl.link(name)
        return link if link is not None and link.group == tools.instance.link_group else None
