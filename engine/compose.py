"""The engine: every service, each given what it needs.  The one place that knows them all; they do not know it.

    core        store, events, threads, supervisor, controller
    registry    which containers there are
    networks -- hosts -- execs            what a container is joined to
    end -- stop -- remove -- run          what happens to it; create, rename, view, inbox and recovery beside them

An arrow from left to right or from top to bottom is never turned round: no service is given one that comes after it.
"""

from __future__ import annotations

from collections.abc import Callable

from ..runtime.images.store import ImageStore
from .captures import Captures
from .container.attachment import ContainerNetworks
from .container.create import Create
from .container.end import End
from .container.etc_files import HostFiles
from .container.execs import Execs
from .container.inbox import Inbox
from .container.ports import Ports
from .container.recovery import Recovery
from .container.registry import Registry
from .container.remove import Remove
from .container.run import Run
from .container.stop import Stop
from .container.view import View
from .core import Core
from .images import Images
from .inotify import Inotify
from .lookups import Lookups
from .networks import Networks
from .system import System
from .volumes import Volumes


class Engine:
    """What the handlers of the API call."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.pools = core.pools
        self.events = core.events
        self.supervisor = core.supervisor
        self.controller = core.controller

        store = ImageStore(str(core.instance.root))
        self.registry = registry = Registry(core.store, core.reserve, core.instance.root)
        self.images = Images(store, core.reserve, core.events, registry.image_users)
        self.volumes = volumes = Volumes(
            core.store, core.reserve, core.instance.root, core.events, registry.volume_users
        )
        attachments = ContainerNetworks(core.controller)
        self.hosts = hosts = HostFiles(core, registry, attachments)
        self.networks = Networks(core, registry, attachments, hosts)

        self.execs = execs = Execs(core, registry)
        end = End(core, registry, attachments, hosts, execs)
        self.stop = stop = Stop(core, registry)
        self.remove = remove = Remove(
            core, registry, networks=attachments, volumes=volumes, execs=execs, end=end, stop=stop
        )
        self.run = run = Run(
            core, registry, networks=attachments, volumes=volumes, hosts=hosts, end=end, stop=stop, remove=remove
        )
        self.ports = Ports(core, registry, attachments)
        self.captures = Captures(core, registry)
        self.lookups = Lookups(core, registry)
        self.create = Create(core, registry, store, volumes, networks=attachments, remove=remove)
        self.view = View(
            core,
            registry,
            networks=attachments,
            ports=self.ports,
            execs=execs,
            volumes=volumes,
            images=store,
        )
        self.inbox = Inbox(core, registry, execs, end, remove)
        self.recovery = Recovery(core, registry, networks=attachments, end=end, remove=remove, run=run)
        self.system = System(
            core, registry, view=self.view, images=self.images, networks=self.networks, volumes=volumes
        )

        self.stopping: Callable[[bool], None] = lambda everything: None
        """Ends the daemon; True ends the containers and the other processes as well.  Set by the daemon."""
        self._inotify: Inotify | None = None

    def inotify(self) -> Inotify:
        """The loop's watch over log files, made by the first who follows one."""
        if self._inotify is None:
            self._inotify = Inotify()
        return self._inotify
