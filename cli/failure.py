"""How a command fails: two lines on stderr, what happened and why, then what to do; and an exit code.

Whoever raises an error knows what can be done about it and says so in its ``hint``; the engine's hints come with its
answers.  So there is no table of hints here, and an error without one is a single line.
"""

from __future__ import annotations

import sys

CANNOT = 125
"""What Docker's client exits with when the command line is wrong, and ``run`` when nothing could be started."""
NO_READER = 141
"""128 + SIGPIPE: the reader of our output left, and a shell shows cat and Docker's client to have died of that."""


def report(error: Exception, code: int | None = None) -> int:
    """Print *error* as two lines on stderr; returns *code*, or the error's own exit code.

    What was printed before comes first, also where both go to one place (``2>&1``).
    """
    sys.stdout.flush()
    complain(str(error), getattr(error, "hint", ""))
    return int(getattr(error, "exit_code", 1)) if code is None else code


def usage(message: str, hint: str) -> int:
    """Report a command line that is wrong."""
    complain(message, hint)
    return CANNOT


def complain(message: str, hint: str = "") -> None:
    """The lines themselves; a stderr that can not be written is no reason to fail differently."""
    try:
        print(f"pynet: {message}" + (f"\n  {hint}" if hint else ""), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass
