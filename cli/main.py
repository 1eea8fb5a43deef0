"""The ``pynet`` command: finds the command that is meant, imports only its module, and turns errors into exit codes.

    argv -> [global options] -> NAME [SUB] -> cli.commands.<module>.configure(parser), .run(args) -> exit code

Start-up is most of what a short command costs, so: ``--version`` answers before anything is imported; a command's
module, and the client, are imported when that command runs; the list of commands is made from the table, which
imports nothing; and the program ends without taking the interpreter apart.

Exit codes are Docker's: 0, 1 (the daemon said no), 125 (the command line is wrong; ``run`` could not start), 126 and
127 (``run`` and ``exec``: not executable, not found), else the container's own.  An error is two lines on stderr:
what happened and why, then what to do.
"""

from __future__ import annotations

import sys

from ..netlib.version import __version__

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from .parser import Parser
    from .settings import Settings

USAGE_ERROR = 125
"""What Docker's client exits with when the command line is wrong."""

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Create a container from an image and start it"),
    "create": ("create", "Create a container"),
    "start": ("start", "Start stopped containers"),
    "stop": ("stop", "Stop running containers"),
    "kill": ("stop", "Send a signal to running containers"),
    "restart": ("stop", "Stop and start containers"),
    "pause": ("pause", "Freeze all processes of containers"),
    "unpause": ("pause", "Thaw paused containers"),
    "rm": ("rm", "Remove containers"),
    "ps": ("ps", "List containers"),
    "logs": ("logs", "Show what a container printed"),
    "exec": ("execute", "Run a command in a running container"),
    "attach": ("attach", "Connect this terminal to a running container"),
    "inspect": ("inspect", "Show all that is known about objects"),
    "port": ("port", "List the published ports of a container"),
    "wait": ("wait", "Wait until containers stop, and print their exit codes"),
    "rename": ("rename", "Give a container another name"),
    "top": ("top", "List the processes of a container"),
    "stats": ("stats", "Show what containers use"),
    "images": ("image", "List images"),
    "rmi": ("image", "Remove images"),
    "import": ("image", "Make an image from a root file system in a tar archive"),
    "load": ("image", "Load images from an archive"),
    "save": ("image", "Save images to an archive"),
    "tag": ("image", "Give an image one more name"),
    "events": ("events", "Follow what happens in the engine"),
    "info": ("info", "Show the state of the engine"),
    "version": ("version", "Show the versions of client and engine"),
    "check": ("check", "Compare what should exist in the kernel with what does"),
    "repair": ("check", "Bring the kernel in line with what should exist"),
    "daemon": ("daemon", "Run the engine here, or start, stop and query it"),
    "playground": ("playground", "A shell in which a host and its LAN live; nothing outside changes"),
    "container": ("", "Commands on containers (`pynet container ls` is `pynet ps`)"),
    "network": ("", "Commands on networks"),
    "image": ("", "Commands on images"),
    "system": ("", "Commands on the whole engine"),
}
"""Name -> module below cli/commands, help.  An empty module means a group of commands."""

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "container": {
        **{
            name: COMMANDS[name]
            for name in (
                *(
                    "run",
                    "create",
                    "start",
                    "stop",
                    "kill",
                    "restart",
                    "pause",
                    "unpause",
                    "rm",
                    "logs",
                    "exec",
                    "attach",
                ),
                *("inspect", "port", "wait", "rename", "top", "stats"),
            )
        },
        "ls": ("ps", "List containers"),
        "prune": ("system", "Remove all stopped containers"),
    },
    "network": {
        "create": ("network", "Create a network"),
        "ls": ("network", "List networks"),
        "inspect": ("inspect", "Show all that is known about networks"),
        "connect": ("network", "Connect a container to a network"),
        "disconnect": ("network", "Disconnect a container from a network"),
        "rm": ("network", "Remove networks"),
        "prune": ("system", "Remove all networks that no container uses"),
    },
    "image": {
        "ls": ("image", "List images"),
        "rm": ("image", "Remove images"),
        "import": COMMANDS["import"],
        "load": COMMANDS["load"],
        "save": COMMANDS["save"],
        "tag": COMMANDS["tag"],
        "inspect": ("inspect", "Show all that is known about images"),
        "bootstrap": ("image", "Make busybox:latest from this host's static busybox"),
    },
    "system": {
        "prune": ("system", "Remove stopped containers and unused networks"),
        "info": COMMANDS["info"],
        "events": COMMANDS["events"],
    },
}
ALIASES = {("container", "ps"): "ls", ("container", "list"): "ls", ("network", "list"): "ls", ("image", "list"): "ls",
           ("image", "remove"): "rm", ("network", "remove"): "rm", ("container", "remove"): "rm"}  # fmt: skip

GLOBAL_OPTIONS = {"-H": "host", "--host": "host", "--root": "root", "--run": "run"}
HELP = """\
Usage:  pynet [OPTIONS] COMMAND

Containers and their networks.

Options:
  -H, --host ADDRESS  The engine's socket: unix:///path or tcp://host:port (PYNET_HOST, DOCKER_HOST)
      --root DIR      Where state is kept (PYNET_ROOT; /var/lib/pynet)
      --run DIR       Where run-time state is kept (PYNET_RUN; /run/pynet)
      --version       Print the version
      --help          Print this page
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code, or with None, the words of this process, ends the process with it."""
    if argv is None:
        import io

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="surrogateescape")  # arguments of containers may be any bytes (PEP 383)
    code = _run(sys.argv[1:] if argv is None else argv)
    if argv is None:
        import os

        try:
            sys.stdout.flush()
        except OSError:
            pass  # nobody reads it any more
        sys.stderr.flush()
        os._exit(code)  # 3 ms sooner than a return: nothing here waits for destructors or atexit
    return code


def _run(words: list[str]) -> int:
    if words and words[0] in ("--version", "-v"):
        print(f"pynet version {__version__}", flush=True)
        return 0
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # the reader of our output went away (`pynet ps | head -1`): not an error, and nobody is left to tell
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130


def _dispatch(words: list[str]) -> int:
    options: dict[str, str] = {}
    position = 0
    while position < len(words) and words[position].startswith("-"):
        word, equals, value = words[position].partition("=")
        if word in ("--help", "-h"):
            print(_help(), end="")
            return 0
        if word not in GLOBAL_OPTIONS:
            return _usage(f"unknown option: {word}", "`pynet --help` lists the options")
        if not equals:
            position += 1
            if position == len(words):
                return _usage(f"option needs a value: {word}", "`pynet --help` lists the options")
            value = words[position]
        options[GLOBAL_OPTIONS[word]] = value
        position += 1
    words = words[position:]
    if not words:
        print(_help(), end="")
        return 0
    name = words[0]
    if name == "help":
        words = [*words[1:2], "--help"] if len(words) > 1 else ["--help"]
        return _dispatch(words)
    if name not in COMMANDS:
        return _usage(f"unknown command: pynet {name}", "`pynet --help` lists the commands")
    title, (module, text), arguments = name, COMMANDS[name], words[1:]
    if not module:
        sub = next(iter(arguments), "--help")
        sub = ALIASES.get((name, sub), sub)
        if sub in ("--help", "-h", "help"):
            print(_group_help(name), end="")
            return 0
        if sub not in GROUPS[name]:
            return _usage(f"unknown command: pynet {name} {sub}", f"`pynet {name} --help` lists the commands")
        title, (module, text), arguments = f"{name} {sub}", GROUPS[name][sub], arguments[1:]
    return _command(title, module, text, arguments, options)


def _command(title: str, module: str, text: str, arguments: list[str], options: dict[str, str]) -> int:
    """Import *module*, parse *arguments* as it says, run it, and report what goes wrong."""
    from importlib import import_module

    from ..netlib.errors import InvalidArgument, PynetError
    from .parser import Parser, UsageError
    from .settings import Settings

    command = import_module(f"{__package__}.commands.{module}")
    parser: Parser = Parser(title, text)
    try:
        settings: Settings = Settings.resolve(options)
        command.configure(parser)
        args = parser.parse(arguments)
        if args is None:
            return 0
        args.settings = settings
        code: int = command.run(args)
        return code
    except UsageError as error:
        return _usage(str(error), f"`pynet {title} --help` lists the options")
    except PynetError as error:
        sys.stdout.flush()
        # the command's own InvalidArgument is about its words; what the engine says is a DaemonError
        return report(error, USAGE_ERROR if isinstance(error, InvalidArgument) else None)


def report(error: Exception, code: int | None = None) -> int:
    """Print *error* as two lines on stderr; returns *code*, or the error's own exit code."""
    print(f"pynet: {error}", file=sys.stderr)
    hint = getattr(error, "hint", "")
    if hint:
        print(f"  {hint}", file=sys.stderr)
    return getattr(error, "exit_code", 1) if code is None else code


def _usage(message: str, hint: str) -> int:
    print(f"pynet: {message}\n  {hint}", file=sys.stderr)
    return USAGE_ERROR


def _rows(table: dict[str, tuple[str, str]]) -> str:
    width = max(map(len, table))
    return "".join(f"  {name:{width}}  {text}\n" for name, (_, text) in table.items())


def _help() -> str:
    return f"{HELP}\nCommands:\n{_rows(COMMANDS)}\n`pynet COMMAND --help` says more about a command.\n"


def _group_help(name: str) -> str:
    return f"Usage:  pynet {name} COMMAND\n\n{COMMANDS[name][1]}\n\nCommands:\n{_rows(GROUPS[name])}"


if __name__ == "__main__":
    raise SystemExit(main())
