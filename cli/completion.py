"""What may stand where a command line is being typed: commands, options, their values, and the engine's names.

    bash, zsh, fish  --words so far-->  pynet __complete SHELL WORD...  --directive, candidates-->  shell

The shells' scripts (``script``) only carry words and candidates: which there are is read from the parser's own tables as they
are declared, so nothing has to be generated anew when a command gets an option.  Names of containers, networks and images are
asked from an engine that runs; none is ever started for it, and one that does not answer within a second has no names.

Candidates are whole words: in ``--network=ba`` the candidate is ``--network=back``.
"""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager

from ..netlib.errors import PynetError
from .parser import Option, Parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from typing import Any

    Candidates = list[tuple[str, str]]
    """Words, and what each is."""
    Names = Callable[[str], Candidates]
    """The engine's names of a kind: "container" (and "running", "stopped", "paused" ones), "network", "image"."""

WORDS, FILES = "words", "files"
"""What a shell is told to do: choose from the candidates, or complete names of files itself."""
SHELLS = ("bash", "zsh", "fish")

ASKED: dict[str, str] = {
    "container": "container", "network": "network", "image": "image", "file": FILES, "NETWORK": "network",
    "CONTAINER": "container", "FILE": FILES, "DIR": FILES, "FILE|-": FILES, "SOURCE:TARGET[:ro]": FILES,
}  # fmt: skip
"""What an argument's name, or an option's metavar, asks for."""
RUNNING = frozenset(("attach", "capture", "exec", "kill", "log", "pause", "port", "stats", "stop", "top"))
STATES = {**dict.fromkeys(RUNNING, "running"), "start": "stopped", "unpause": "paused"}
"""Commands for containers in a state; the others take all."""
OBJECTS = {
    "inspect": ("container", "network", "image"),
    "container inspect": ("container",),
    "network inspect": ("network",),
    **dict.fromkeys(("image inspect", "image ls", "images"), ("image",)),
}
"""Commands whose argument is called "name" and is one that exists."""
_SIGNALS = "HUP INT QUIT KILL TERM USR1 USR2 STOP CONT"
VALUES = {
    "--restart": "no on-failure always unless-stopped",
    "--signal": _SIGNALS,
    "--stop-signal": _SIGNALS,
    "--format": "json table",
    "--type": "container image network",
    "--driver": "bridge macvlan ipvlan",
    "--attach": "stdin stdout stderr",
    "--log-driver": "json-file none",
    "--ipam-driver": "default null dhcp",
    "--firewall": "auto nftables iptables",
    "--publish-policy": "nat host-input",
    "SHELL": " ".join(SHELLS),
    "RECORD": "A AAAA PTR SRV CNAME MX NS TXT",
    "start|stop|status": "start stop status",
}
"""By an option's long name, or an argument as it is shown."""
VERBS = {"port": "add rm stats"}
"""Commands whose first argument may be a verb, and the one behind it is then what the first would have been."""
_HOST_OPTIONS = (
    ("--host", "the engine's socket"), ("--root", "where state is kept"), ("--run", "where run-time state is kept"),
    ("--version", "print the version"), ("--help", "print the help page"),
)  # fmt: skip


def complete(words: Sequence[str], names: Names) -> tuple[str, Candidates]:
    """The directive and the candidates for the last of *words*, which come after "pynet" and may end with an empty one."""
    from .main import ALIASES, COMMANDS, GLOBAL_OPTIONS, GROUPS

    *before, current = words or [""]
    position = 0
    while position < len(before) and before[position].startswith("-"):
        position += 1 if "=" in before[position] or before[position] not in GLOBAL_OPTIONS else 2
    if position > len(before):
        return (FILES, []) if before[-1] in ("--root", "--run") else (WORDS, [])
    before = before[position:]
    if not before:
        found = _HOST_OPTIONS if current.startswith("-") else [(name, text) for name, (_, text) in COMMANDS.items()]
        return WORDS, _starting(found, current)
    name, *before = before
    if name == "help":
        table = GROUPS.get(before[0], {}) if before else COMMANDS
        return WORDS, _starting([(name, text) for name, (_, text) in table.items()], current)
    if name not in COMMANDS:
        return WORDS, []
    title, (entry, text) = name, COMMANDS[name]
    if not entry:
        if not before:
            return WORDS, _starting([(sub, text) for sub, (_, text) in GROUPS[name].items()], current)
        sub, *before = before
        sub = ALIASES.get((name, sub), sub)
        if sub not in GROUPS[name]:
            return WORDS, []
        title, (entry, text) = f"{name} {sub}", GROUPS[name][sub]
    return _argument(declared(title, entry, text), before, current, names)


def declared(title: str, entry: str, text: str) -> Parser:
    """The parser of a command, with everything that its module declares."""
    module, _, function = entry.partition(":")
    name = f"{__package__}.commands.{module}"
    __import__(name)
    parser = Parser(title, text)
    getattr(sys.modules[name], function)(parser)
    return parser


def _argument(parser: Parser, before: Sequence[str], current: str, names: Names) -> tuple[str, Candidates]:
    """What may stand next in the line of one command."""
    known = {name: option for option in parser.options for name in option.names}
    arguments, verb = 0, False
    verbs = VERBS.get(parser.title, "").split()
    waiting: Option | None = None
    options_ended = False
    for word in before:
        if waiting is not None:
            waiting = None
        elif options_ended or word == "-" or not word.startswith("-"):
            if not arguments and word in verbs and not verb:
                verb = True
            else:
                arguments += 1
            options_ended = options_ended or parser.stops_at_first_argument
        elif word == "--":
            options_ended = True
        else:
            waiting = _awaits(word, known)
    if waiting is not None:
        return _value(parser, waiting, current, "", names)
    if not options_ended and current.startswith("-"):
        if current.startswith("--") and "=" in current:
            option = known.get(current.partition("=")[0])
            if option is None or option.kind == "flag":
                return WORDS, _starting(
                    [(f"{current.partition('=')[0]}={text}", "") for text in ("true", "false")], current
                )
            return _value(parser, option, current.partition("=")[2], current.partition("=")[0] + "=", names)
        return WORDS, _starting([(name, option.help) for name, option in known.items()], current)
    first = _starting([(word, "") for word in verbs], current) if not arguments and not verb else []
    directive, found = _of_argument(parser, arguments, current, names)
    return directive, [*first, *found]


def _awaits(word: str, known: dict[str, Option]) -> Option | None:
    """The option of *word* ("--network", "-itw") whose value is the next one, if any."""
    if word.startswith("--"):
        option = known.get(word)
        return option if option is not None and option.kind != "flag" else None
    for place, letter in enumerate(word[1:], 2):
        option = known.get(f"-{letter}")
        if option is None:
            return None
        if option.kind != "flag":
            return option if place == len(word) else None
    return None


def _value(parser: Parser, option: Option, current: str, prefix: str, names: Names) -> tuple[str, Candidates]:
    long = next((name for name in option.names if name.startswith("--")), option.names[0])
    kind = option.metavar if option.metavar in VALUES else long
    if kind in VALUES:
        found: Candidates = [(value, "") for value in VALUES[kind].split()]
    elif option.metavar in ASKED:
        if ASKED[option.metavar] == FILES:
            return FILES, []
        found = names(ASKED[option.metavar])
    else:
        return WORDS, []
    return WORDS, [(prefix + value, text) for value, text in _starting(found, current)]


def _of_argument(parser: Parser, number: int, current: str, names: Names) -> tuple[str, Candidates]:
    shown = parser.arguments
    if number < len(shown):
        name, _, metavar, _ = shown[number]
    elif shown and shown[-1][1] in ("+", "*"):
        name, _, metavar, _ = shown[-1]
    else:
        return WORDS, []
    if metavar in VALUES:
        return WORDS, _starting([(value, "") for value in VALUES[metavar].split()], current)
    kinds = OBJECTS.get(parser.title, ()) if name == "name" else tuple(filter(None, [ASKED.get(name)]))
    if FILES in kinds:
        return FILES, []
    state = STATES.get(parser.command, "container")
    found = [entry for kind in kinds for entry in names(state if kind == "container" else kind)]
    return WORDS, _starting(found, current)


def _starting(found: Iterable[tuple[str, str]], current: str) -> Candidates:
    return [entry for entry in found if entry[0].startswith(current)]


# -- the engine's names -------------------------------------------------------------------------------------------

PATIENCE = 1.0
"""Seconds that an engine has to answer all that is asked for one line."""


def names_of(options: dict[str, str]) -> Names:
    """The names that the engine of these global options knows; none when it does not run or does not answer."""

    from time import monotonic

    until = monotonic() + PATIENCE

    def names(kind: str) -> Candidates:
        from .client import Client, checked
        from .settings import Settings

        left = until - monotonic()
        if left <= 0:
            return []
        where = {"network": "/networks", "image": "/images/json"}.get(kind, "/containers/json")
        try:
            with _within(left):
                client = Client(Settings.resolve(options), start=False)
                connection = client.send(
                    "GET", where, {"all": kind not in ("running",)} if "containers" in where else {}
                )
                try:
                    return list(_names(kind, checked(connection.receive()).json()))
                finally:
                    connection.close()
        except (
            PynetError,
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ):  # the last ones: it is no engine
            return []

    return names


@contextmanager
def _within(seconds: float) -> Generator[None]:
    """TimeoutError after so long, wherever it waits: for a name server, a connection, or a peer that says a byte a second."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def _names(kind: str, found: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    for one in found:
        if kind == "network":
            yield str(one["Name"]), f"{one['Driver']} network"
        elif kind == "image":
            yield from ((str(tag), "image") for tag in one.get("RepoTags") or ())
        elif _is(kind, str(one.get("State", ""))):
            yield from ((str(name).lstrip("/"), f"{one['Image']}, {one['Status']}") for name in one["Names"])


def _is(kind: str, state: str) -> bool:
    match kind:
        case "running":
            return state in ("running", "paused")
        case "stopped":
            return state not in ("running", "paused")
        case "paused":
            return state == "paused"
        case _:
            return True


# -- the shells ---------------------------------------------------------------------------------------------------

_BASH = """\
# bash completion of pynet: `pynet completion bash` prints this
_pynet() {
    local -a words=()
    local rest=$COMP_LINE word index
    # : and = part words for readline, not for us
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if ((index)) && [[ -n $rest && $rest != [[:space:]]* ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        rest=${rest#"${rest%%[![:space:]]*}"}
        rest=${rest#"$word"}
    done
    local current=${words[${#words[@]}-1]} directive line
    COMPREPLY=()
    {
        read -r directive
        if [[ $directive == files ]]; then
            compopt -o default
            return
        fi
        local cut=${current%"${current##*[=:]}"}
        while IFS=$'\\t' read -r word line; do
            COMPREPLY+=("${word#"$cut"}")
        done
    } < <("${words[0]}" __complete bash "${words[@]:1}" 2>/dev/null)
}
complete -F _pynet pynet
"""
_ZSH = """\
#compdef pynet
# zsh completion of pynet: `pynet completion zsh` prints this
_pynet() {
    local -a answer found
    local line
    answer=("${(@f)$(${(Q)words[1]} __complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ $answer[1] == files ]]; then
        compset -P '*='
        _files
        return
    fi
    for line in "${(@)answer[2,-1]}"; do
        [[ -n $line ]] && found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    _describe -t pynet pynet found
}
if [[ $funcstack[1] == _pynet ]]; then
    _pynet "$@"
else
    compdef _pynet pynet
fi
"""
_FISH = """\
# fish completion of pynet: `pynet completion fish` prints this
function __pynet_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l answer (command $words[1] __complete fish $words[2..-1] "$current" 2>/dev/null)
    if test "$answer[1]" = files
        __fish_complete_path (string replace -r '^-[^=]*=' '' -- "$current")
        return
    end
    string join \\n -- $answer[2..-1]
end
complete -c pynet -f -a '(__pynet_complete)'
"""


def script(shell: str) -> str:
    """The script that teaches *shell* to ask."""
    return {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
