"""What the commands on several objects share: go through all of them, report each failure, and fail at the end."""

from __future__ import annotations

from ...netlib.errors import PynetError
from ..client import quote
from ..main import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def path(name: str, kind: str = "containers") -> str:
    """The API path of an object; a name with odd characters stays one segment (and is answered with 404)."""
    return f"/{kind}/{quote(name, b'/:' if kind == 'images' else b':')}"


def each(names: list[str], action: Callable[[str], object], show: Callable[[str], None] = print) -> int:
    """Do *action* for each name and *show* the name; failures are reported as they come.  1 when there was one."""
    code = 0
    for name in names:
        try:
            action(name)
        except PynetError as error:
            code = report(error, 1)
        else:
            show(name)
    return code
