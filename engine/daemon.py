"""pynetd: ``python -I -m pynet.engine.daemon --root ROOT --run RUN``

    flock RUN/pynetd.lock               a second daemon ends here
    bind and listen on the socket       clients that come now wait in its queue
    supervisor and forwarder            found, or started, at the same time
    controller, containers              loaded from the store
    supervisor's list                   what ran on, what ended while nobody looked
    repair                              the kernel as the store says
    serve                               "1" to --ready-fd, else why not and a hint; then removals, policies

TERM and INT end pynetd alone: containers, published ports and logs go on; HUP does nothing.  KILL does the same as TERM, except
that the supervisor and the forwarder start it again.  Whatever is half-done then stands in the store, and the steps above finish
it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ..netlib.errors import NotSupported, PynetError
from ..netlib.instance import Instance
from . import config_file
from .claims import bind, is_new, leave_lock, refuse_orphans, socket_path, take_lock
from .daemon_options import Asked, own_command, parse_arguments
from .default_bridge import unmet

log = logging.getLogger("pynetd")


class Daemon:
    """The process, from its lock to its end."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from .helpers import Helpers, ensure_directories

        self.arguments = arguments
        self.instance = Instance.at(arguments.root, arguments.run)
        self._asked = asked = Asked.of(arguments, self.instance)
        self._bridge = asked.bridge
        self._path = socket_path(arguments.host, self.instance.run)
        ensure_directories(self.instance.root, self.instance.run)
        self._lock = take_lock(self.instance.run, again=arguments.again)
        self._sock = bind(self._path)
        self._helpers = Helpers(self.instance, own_command(arguments, self.instance), asked.proxy)
        self._everything = False
        try:
            self._start()
        except BaseException:
            self._helpers.give_up()
            self._remove_files()
            raise

    def _start(self) -> None:
        """Everything that is not asyncio."""
        from ..netlib.controller import Controller
        from .compose import Engine
        from .core import Core
        from .reserve import Reserve

        problems: list[PynetError] = []

        def find_supervisor() -> None:
            try:
                self._helpers.find_supervisor()
            except PynetError as error:
                problems.append(error)

        finding = threading.Thread(target=find_supervisor)
        finding.start()
        try:
            self._helpers.find_forwarder()
            if is_new(self.instance.root):
                finding.join()
                if not problems:
                    refuse_orphans(self.instance.root, self._helpers.supervisor.list())
            reserve = Reserve(self.instance.root)
            self._controller = reserve.spend(
                Controller,
                self.instance.root,
                self.instance.run,
                proxy=self._helpers.forwarder,
                names=self._helpers.names,
                firewall=self.arguments.firewall or "auto",
                default_pools=self._asked.pools,
                publish_policy=self.arguments.publish_policy or "nat",
            )
            reserve.make()
        finally:
            finding.join()
        if problems:
            raise problems[0]
        for port in self._controller.lost_ports:
            log.error("port %s:%d/%s was taken by another program", port.host_ip, port.host_port, port.proto)
        warnings = self._ensure_networks()
        supervisor = self._helpers.supervisor
        about = supervisor.info()
        self.engine = engine = Engine(
            Core(
                self.instance,
                self._controller,
                supervisor,
                reserve,
                warnings=warnings,
                default_network="bridge" if self._bridge is not None else "none",
                network_opts=self._asked.network_opts,
                names=self._asked.names,
                limit_controllers=frozenset(about.get("cgroups", ())),
            )
        )
        engine.registry.sweep()
        self._ran_before = {container.id for container in engine.registry.all() if container.running}
        supervisor.subscribe(engine.inbox.on_event)
        engine.recovery.follow_supervisor()
        engine.recovery.settle_endpoints()
        warnings += self._adapt_bridge()
        supervisor.on_reconnect = lambda: engine.pools.submit(engine.recovery.follow_supervisor)
        self._helpers.on_revival = engine.core.revivals.happened
        try:
            for difference in self._controller.repair():
                log.info("repaired: %s", difference)
        except (PynetError, OSError) as error:
            log.error("repair: %s", error)
            warnings.append(f"some of the network could not be repaired: {error}")
        self._watch(warnings)
        warnings += about.get("warnings", [])
        try:
            self._helpers.adjust_forwarder(self._controller)
        except PynetError as error:
            log.error("%s", error)
            warnings.append(f"published ports are served with the settings of an earlier start: {error}")
        self._helpers.register()

    def _watch(self, warnings: list[str]) -> None:
        try:
            self._controller.watch_firewall()
            self._controller.watch_links()
        except (PynetError, OSError) as error:
            log.error("the kernel can not be watched: %s", error)
            warnings.append(f"what others take away comes back by `pynet repair` alone: {error}")

    def _ensure_networks(self) -> list[str]:
        """The predefined networks.  Without a firewall there is no bridge, but host and none are of use."""
        try:
            self._controller.ensure_predefined(self._bridge)
        except (PynetError, OSError) as error:
            log.error("the default bridge network can not be made: %s", error)
            self._controller.ensure_predefined(None)
            return [f"there is no default bridge network: {error}"]
        return []

    def _adapt_bridge(self) -> list[str]:
        """The network ``bridge`` as this start's options ask, and not an earlier one's."""
        registry = self._controller.registry
        try:
            if self._bridge is None:
                if registry.has_network_named("bridge"):
                    self._controller.network("bridge").delete()
            elif registry.has_network_named("bridge") and not self._controller.adapt_bridge(self._bridge):
                return [unmet()]
        except (PynetError, OSError) as error:
            log.error("the default bridge network: %s", error)
            return [unmet(error)]
        return []

    async def serve(self) -> None:
        from .api.routes import ROUTES
        from .api.server import Server

        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def stopping(everything: bool) -> None:
            self._everything = everything
            stop.set()

        self.engine.stopping = stopping
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping, False)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        self._helpers.watch(self._controller)
        server = Server(self.engine, ROUTES)
        listening = await server.start(self._sock)
        self._tell_ready()
        self.engine.pools.defer(self._settle)
        gc.collect()
        gc.freeze()  # what the start made stays: later collections need not look at it again
        await stop.wait()
        self._helpers.goodbye(everything=self._everything)
        listening.close()
        await server.stop()

    @staticmethod
    def _hang_up() -> None:
        """Docker's engine reads its file again, and dies of no terminal that goes; ours has nothing in it that changes live."""
        log.warning("SIGHUP: the configuration file is read when the engine is started, and not now")

    def _tell_ready(self) -> None:
        log.info("serving %s as process %d", self._path, os.getpid())
        if self.arguments.ready_fd is not None:
            os.write(self.arguments.ready_fd, b"1\n")
            os.close(self.arguments.ready_fd)
            self.arguments.ready_fd = None

    def _settle(self) -> None:
        """What a start has to do and no client has to wait for."""
        steps: list[Callable[[], object]] = [self.engine.remove.empty_trash, self.engine.recovery.finish_interrupted]
        if self._helpers.supervisor_is_new:
            steps.append(lambda: self.engine.recovery.apply_policies(self._ran_before))
        for step in steps:
            try:
                step()
            except Exception:  # of no step's failure may the next one be a victim
                log.exception("after the start")

    def close(self) -> None:
        self.engine.pools.close()
        self._helpers.close()
        if self._everything:
            try:
                self._controller.take_down()
            except (PynetError, OSError) as error:
                log.warning("%s", error)
        self._controller.close()
        self._remove_files()
        leave_lock(self._lock)

    def _remove_files(self) -> None:
        for path in (Path(self._path), self.instance.run / "pynetd.pid"):
            path.unlink(missing_ok=True)


def fail(arguments: argparse.Namespace, error: PynetError | OSError | sqlite3.Error) -> int:
    """Say why there is no daemon, and what to do: to whoever waits for it, and in the log."""
    from .reserve import DiskFull, is_full

    if is_full(error):
        error = DiskFull(Instance.at(arguments.root, arguments.run).root)
    text, hint = str(error), getattr(error, "hint", "")
    if arguments.ready_fd is not None:
        try:
            os.write(arguments.ready_fd, f"{text}\n{hint}\n".encode())
        except OSError:
            pass  # nobody waits any more
    print(f"pynetd: {text}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
    return 1


def validate(arguments: argparse.Namespace) -> int:
    """Say that the options and the configuration file make sense (PynetError when not); nothing is started or made."""
    instance = Instance.at(arguments.root, arguments.run)
    Asked.of(arguments, instance)
    socket_path(arguments.host, instance.run)
    print("configuration OK", file=sys.stderr)
    return 0


def require_aiohttp() -> None:
    """The library does without an HTTP server; who installed it alone is told so before anything is locked or made."""
    try:
        import aiohttp.web  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise NotSupported(
            f"the engine needs aiohttp: {error}", hint="pip install 'pynet-containers[engine]'"
        ) from error


def one_arena() -> None:
    """One heap for all threads (mallopt(3)): they take turns at the interpreter's lock anyway, and each further arena
    keeps megabytes."""
    import ctypes

    m_arena_max = -8
    try:
        ctypes.CDLL(None).mallopt(m_arena_max, 1)
    except AttributeError:
        pass  # another C library than glibc


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    one_arena()
    if arguments.log:
        fd = os.open(arguments.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if arguments.ready_fd is not None:
        os.set_inheritable(arguments.ready_fd, False)
    try:
        config_file.settle(arguments)
        if arguments.validate:
            return validate(arguments)
        require_aiohttp()
        daemon = Daemon(arguments)
    except (PynetError, OSError, sqlite3.Error) as error:
        return fail(arguments, error)
    asyncio.run(daemon.serve())
    daemon.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
