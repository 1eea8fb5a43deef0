"""``pynet daemon``: run the engine in the foreground; ``start``, ``stop`` and ``status`` of the one that runs.

Stopping ends pynetd alone: containers, published ports and logs go on, and the next command starts it again.
``stop --all`` stops the containers and the other processes too.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from ...engine.grammar import network_options
from ...netlib.errors import Conflict, InternalError, NotFound, PynetError
from ..launch import LOG_NAME, engine_argv, is_serving, start_engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run
    from ..settings import Settings

PID_NAME = "pynetd.pid"
STOP_TIMEOUT = 30.0
"""Seconds; requests under way are finished first."""
_OPTIONS = (
    ("--config-file", "FILE", "settings of the engine (PYNET_CONFIG_FILE, /etc/pynet/daemon.json)"),
    ("--firewall", "NAME", "auto, nftables or iptables (auto)"),
    ("--publish-policy", "NAME", "nat, or host-input: published ports honour the host's INPUT rules (nat)"),
    ("--proxy-workers", "N", "processes that accept on published tcp ports (1)"),
    ("--proxy-drain", "SECONDS", "for proxied connections of a container that ends (10)"),
    ("--metrics-addr", "IP:PORT", "tell Prometheus what the proxy carries, here"),
)
"""Of the engine, when it is started."""
NOT_RUNNING = 3
"""Exit code of ``status`` (systemctl's, LSB)."""


def daemon(parser: Parser) -> Run:
    parser.flag("--all", help="with stop: containers and the other processes too")
    for name, metavar, text in _OPTIONS:
        parser.option(name, metavar=metavar, help=text)
    for name, metavar, text in network_options.OPTIONS:
        parser.option(name, metavar=metavar, help=text)
    for name, text in network_options.SWITCHES:
        parser.flag(name, default=None, help=text)
    for name, metavar, text in network_options.REPEATED:
        parser.repeated(name, metavar=metavar, help=text)
    parser.flag("--validate", help="judge the options and the configuration file, and start nothing")
    parser.argument("action", count="?", metavar="start|stop|status", help="nothing: run it here, in the foreground")
    return run


def run(args: Arguments) -> int:
    from ..parser import UsageError

    settings: Settings = args.settings
    if settings.named and args.action != "status":
        raise NotFound(
            f"{settings.shown} is somebody else's engine",
            hint="unset PYNET_HOST and DOCKER_HOST; name a --run directory",
        )
    options = _engine_options(args)
    if args.validate:
        if args.action is not None:
            raise UsageError(f"--validate has no use for {args.action}")
        argv = engine_argv(settings, [*options, "--validate"])
        os.execv(argv[0], argv)
    if options and args.action not in (None, "start"):
        raise UsageError(f"{options[0]} is for an engine that is started")
    if args.action is None:
        argv = engine_argv(settings, options)
        os.makedirs(settings.run, 0o711, exist_ok=True)
        os.execv(argv[0], argv)
    if args.action == "start":
        if options and is_serving(settings):
            raise Conflict(
                "the engine runs already, with the options of its own start", hint="`pynet daemon stop` first"
            )
        start_engine(settings, options)
        print(f"the engine serves {settings.shown}")
        return 0
    if args.action == "status":
        return _status(settings)
    if args.action == "stop":
        return _stop(settings, everything=args.all)
    raise UsageError(f"unknown action: {args.action}")


def _engine_options(args: Arguments) -> list[str]:
    """The words of the engine's own command line that say the same."""
    words: list[str] = []
    for name, _, _ in (*_OPTIONS, *network_options.OPTIONS):
        value = getattr(args, _field(name))
        words += [] if value is None else [f"{name}={value}"]
    for name, _ in network_options.SWITCHES:
        on = getattr(args, _field(name))
        words += [] if on is None else [f"{name}={'true' if on else 'false'}"]
    for name, _, _ in network_options.REPEATED:
        for value in getattr(args, _field(name)):
            words.append(f"{name}={value}")
    return words


def _field(option: str) -> str:
    return option[2:].replace("-", "_")


def _status(settings: Settings) -> int:
    from ..client import Client

    try:
        version = Client(settings, start=False).get("/version")
    except PynetError:
        print(f"the engine does not run ({settings.shown})")
        return NOT_RUNNING
    print(f"the engine serves {settings.shown}, version {version.get('Version')}, process {_pid(settings) or '?'}")
    print(f"state in {settings.root}, log in {os.path.join(settings.run, LOG_NAME)}")
    return 0


def _pid(settings: Settings) -> int:
    try:
        with open(os.path.join(settings.run, PID_NAME), encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _stop(settings: Settings, *, everything: bool) -> int:
    """Ask pynetd to end (POST /pynet/shutdown), and wait for its end; TERM when it does not answer.

    A pidfd, so that a reused process number is never hit in between.
    """
    from ..client import Client

    pid = _pid(settings)
    if not pid or not is_serving(settings):
        print("the engine does not run", file=sys.stderr)
        return 0
    try:
        process = os.pidfd_open(pid)
        try:
            Client(settings, start=False).post("/pynet/shutdown", {"all": everything})
        except PynetError:
            if everything:
                raise
            signal.pidfd_send_signal(process, signal.SIGTERM)
    except ProcessLookupError:
        return 0
    except PermissionError as error:
        raise InternalError(f"cannot stop the engine: {error.strerror}", hint="run as root") from None
    try:
        if not select.select([process], [], [], STOP_TIMEOUT)[0]:
            raise InternalError(
                f"the engine (process {pid}) did not end within {STOP_TIMEOUT:.0f} s",
                hint=f"its log is {os.path.join(settings.run, LOG_NAME)}",
            )
    finally:
        os.close(process)
    print("all has ended" if everything else "the engine has ended; containers and published ports go on")
    return 0
