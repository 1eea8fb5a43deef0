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

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from .parser import Run

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run:run", "Create a container from an image and start it"),
    "create": ("create:create", "Create a container"),
    "start": ("start:start", "Start stopped containers"),
    "stop": ("stop:stop", "Stop running containers"),
    "kill": ("stop:kill", "Send a signal to running containers"),
    "restart": ("stop:restart", "Stop and start containers"),
    "pause": ("pause:pause", "Freeze all processes of containers"),
    "unpause": ("pause:unpause", "Thaw paused containers"),
    "rm": ("rm:rm", "Remove containers"),
    "ps": ("ps:ps", "List containers"),
    "logs": ("logs:logs", "Show what a container printed"),
    "exec": ("execute:execute", "Run a command in a running container"),
    "attach": ("attach:attach", "Connect this terminal to a running container"),
    "inspect": ("inspect:inspect", "Show all that is known about objects"),
    "port": ("port:port", "List the published ports of a container"),
    "wait": ("wait:wait", "Wait until containers stop, and print their exit codes"),
    "rename": ("rename:rename", "Give a container another name"),
    "top": ("top:top", "List the processes of a container"),
    "stats": ("stats:stats", "Show what containers use"),
    "capture": ("capture:capture", "Write the packets of a container to a file or a pipe"),
    "images": ("image:ls", "List images"),
    "rmi": ("image:rm", "Remove images"),
    "import": ("image:import_", "Make an image from a root file system in a tar archive"),
    "load": ("image:load", "Load images from an archive"),
    "save": ("image:save", "Save images to an archive"),
    "tag": ("image:tag", "Give an image one more name"),
    "events": ("events:events", "Follow what happens in the engine"),
    "info": ("info:info", "Show the state of the engine"),
    "version": ("version:version", "Show the versions of client and engine"),
    "check": ("check:check", "Compare what should exist in the kernel with what does"),
    "repair": ("check:repair", "Bring the kernel in line with what should exist"),
    "daemon": ("daemon:daemon", "Run the engine here, or start, stop and query it"),
    "completion": ("completion:completion", "Print the script that completes command lines in bash, zsh or fish"),
    "playground": ("playground:playground", "A shell in which a host and its LAN live; nothing outside changes"),
    "container": ("", "Commands on containers (`pynet container ls` is `pynet ps`)"),
    "network": ("", "Commands on networks"),
    "image": ("", "Commands on images"),
    "dns": ("", "Commands on names: what containers resolve"),
    "system": ("", "Commands on the whole engine"),
}
"""Name -> module below cli/commands and its function, help; "" means a group of commands.

The function is given a Parser, declares the command's options, and gives back what runs it.
"""
_OF_CONTAINERS = "run create start stop kill restart pause unpause rm logs exec attach port wait rename top stats"

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "container": {
        **{name: COMMANDS[name] for name in _OF_CONTAINERS.split()},
        "inspect": ("inspect:inspect_container", "Show all that is known about containers"),
        "ls": ("ps:ps", "List containers"),
        "prune": ("system:prune_containers", "Remove all stopped containers"),
    },
    "network": {
        "create": ("network:create", "Create a network"),
        "ls": ("network:ls", "List networks"),
        "inspect": ("inspect:inspect_network", "Show all that is known about networks"),
        "connect": ("network:connect", "Connect a container to a network"),
        "disconnect": ("network:disconnect", "Disconnect a container from a network"),
        "limit": ("traffic:limit", "Limit how fast a container may receive and send on a network"),
        "rm": ("network:rm", "Remove networks"),
        "stats": ("traffic:stats", "Show what containers received and sent on networks"),
        "prune": ("system:prune_networks", "Remove all networks that no container uses"),
    },
    "image": {
        "ls": ("image:ls", "List images"),
        "rm": ("image:rm", "Remove images"),
        "import": COMMANDS["import"],
        "load": COMMANDS["load"],
        "save": COMMANDS["save"],
        "tag": COMMANDS["tag"],
        "inspect": ("inspect:inspect_image", "Show all that is known about images"),
        "bootstrap": ("image:bootstrap", "Make busybox:latest from this host's static busybox"),
    },
    "dns": {
        "query": ("dns:query", "Ask for a name as a container would, and say from where the answer came"),
        "ls": ("dns:ls", "List what a container may resolve"),
        "log": ("dns:log", "Follow what a container asks for"),
    },
    "system": {
        "prune": ("system:prune", "Remove stopped containers and unused networks"),
        "info": COMMANDS["info"],
        "events": COMMANDS["events"],
    },
}
NOT_YET = [
    "build",
    "commit",
    "cp",
    "diff",
    "export",
    "history",
    "login",
    "logout",
    "pull",
    "push",
    "search",
    "update",
    "volume",
]
"""Docker's commands that are not there yet."""
HIDDEN = {"__complete": ("completion:answer", "")}
"""What shells ask; in no list."""
ALONE = ("completion", "daemon", "playground")
"""Modules whose commands do not begin by asking an engine that runs."""
NO_ENGINE = ("completion", "playground")
"""Those that ask none at all: how an engine is reached is not their business, and may be told in words for another client."""
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
        import os

        _standard_streams()
        os._exit(_run(sys.argv[1:]))  # 3 ms sooner than a return: nothing here waits for destructors or atexit
    return _run(argv)


def _standard_streams() -> None:
    """All three are open, and take any bytes.

    The next descriptor that is opened would take the place of a closed one: a socket as stdout.  In that place stands
    one that can only be read, so that what is printed is an error, as it should be.
    """
    import io
    import os

    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # as the interpreter found it closed
            fd = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
            if fd != number:
                os.dup2(fd, number)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", errors="surrogateescape"))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # arguments of containers may be any bytes (PEP 383)


def _run(words: list[str]) -> int:
    if words and words[0] in ("--version", "-v"):
        words = ["--version"]
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except OSError as error:
        return _output_failed(error)
    except KeyboardInterrupt:
        return 130


def _output_failed(error: OSError) -> int:
    """A write that failed: quietly when the reader of our output left (`pynet ps | head -1`), else with a line.

    Whether it left is asked of the pipe and not of the error, which could be another's.
    """
    import os
    import select

    from .failure import NO_READER, complain

    poll = select.poll()
    for fd in (1, 2):
        poll.register(fd, select.POLLERR)
    left = any(events & select.POLLERR for _, events in poll.poll(0))
    try:
        sys.stdout.flush()
    except OSError as found:
        error = found
        # what is left in the buffer would be tried again at exit; a null device takes it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not left and error.filename:
        complain(f"{error.filename}: {error.strerror}")
    elif not left:
        complain(f"cannot write the output: {error.strerror or error}", "look at where stdout goes")
    return NO_READER if left else 1


def _dispatch(words: list[str]) -> int:
    options: dict[str, str] = {}
    position = 0
    while position < len(words) and words[position].startswith("-"):
        word, equals, value = words[position].partition("=")
        if word == "--version":
            from ..netlib.version import __version__

            print(f"pynet version {__version__}")
            return 0
        if word in ("--help", "-h"):
            print(_help(), end="")
            return 0
        if word not in GLOBAL_OPTIONS:
            return _wrong(f"unknown option: {word}")
        if not equals:
            position += 1
            if position == len(words):
                return _wrong(f"option needs a value: {word}")
            value = words[position]
        options[GLOBAL_OPTIONS[word]] = value
        position += 1
    words = words[position:]
    if not words:
        print(_help(), end="")
        return 0
    name = words[0]
    if name == "help":
        return _dispatch([*words[1 : 3 if words[1:2] and words[1] in GROUPS else 2], "--help"])
    if name in HIDDEN:
        return _command(name, *HIDDEN[name], words[1:], options)
    if name not in COMMANDS:
        return _unknown(name, list(COMMANDS), "pynet --help")
    title, (module, text), arguments = name, COMMANDS[name], words[1:]
    if not module:
        sub = next(iter(arguments), "--help")
        sub = ALIASES.get((name, sub), sub)
        if sub in ("--help", "-h", "help"):
            print(_group_help(name), end="")
            return 0
        if sub not in GROUPS[name]:
            return _unknown(f"{name} {sub}", list(GROUPS[name]), f"pynet {name} --help")
        title, (module, text), arguments = f"{name} {sub}", GROUPS[name][sub], arguments[1:]
    return _command(title, module, text, arguments, options)


def _command(title: str, entry: str, text: str, arguments: list[str], options: dict[str, str]) -> int:
    """Import the module of *entry*, parse *arguments* as it says, run it, and report what goes wrong."""
    from ..netlib.errors import InvalidArgument, PynetError
    from .parser import Parser, UsageError
    from .settings import Settings

    module, _, function = entry.partition(":")
    name = f"{__package__}.commands.{module}"
    parser: Parser = Parser(title, text)
    try:
        settings: Settings = Settings.resolve(options, {}) if module in NO_ENGINE else Settings.resolve(options)
        if module not in ALONE and "--help" not in arguments:
            from .client import knock

            knock(settings)
        __import__(name)  # importlib's import_module is one more module
        run: Run = getattr(sys.modules[name], function)(parser)
        args = parser.parse(arguments)
        if args is None:
            return 0
        args.settings = settings
        return run(args)
    except UsageError as error:
        from .failure import usage

        return usage(str(error), f"`pynet {title} --help` lists the options")
    except PynetError as error:
        from .failure import CANNOT, report

        # the command's own InvalidArgument is about its words; what the engine says is a DaemonError
        return report(error, CANNOT if isinstance(error, InvalidArgument) else None)


def _wrong(message: str) -> int:
    from .failure import usage

    return usage(message, "`pynet --help` lists the options")


def _unknown(title: str, names: list[str], page: str) -> int:
    """No such command: what it may be instead."""
    from .failure import usage

    name = title.rpartition(" ")[2]
    if title in NOT_YET:
        return usage(f"pynet {name} is not there yet", "`pynet --help` lists those that are")
    from difflib import get_close_matches

    close = get_close_matches(name, names, 1)
    hint = f"did you mean `pynet {title.removesuffix(name)}{close[0]}`? " if close else ""
    return usage(f"unknown command: pynet {title}", f"{hint}`{page}` lists the commands")


def _rows(table: dict[str, tuple[str, str]]) -> str:
    width = max(map(len, table))
    return "".join(f"  {name:{width}}  {text}\n" for name, (_, text) in table.items())


def _help() -> str:
    return f"{HELP}\nCommands:\n{_rows(COMMANDS)}\n`pynet COMMAND --help` says more about a command.\n"


def _group_help(name: str) -> str:
    return f"Usage:  pynet {name} COMMAND\n\n{COMMANDS[name][1]}\n\nCommands:\n{_rows(GROUPS[name])}"


if __name__ == "__main__":
    raise SystemExit(main())
