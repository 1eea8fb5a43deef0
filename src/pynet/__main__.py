"""``python -m pynet`` is the ``pynet`` command."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
