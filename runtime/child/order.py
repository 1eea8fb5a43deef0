"""What a child is told: values that the supervisor has checked, and descriptors that it has opened.

``descriptors`` is the list of what a child may hold, besides its stdio and the two pipes to the supervisor: it closes
everything else before it does anything (process.py), and a test holds every child to it.
"""

from __future__ import annotations


class Mount:
    """A bind or tmpfs mount of the user's.  The child opens a bind's source: a dead network file system is its loss alone."""

    __slots__ = ("attributes", "options", "propagation", "readonly", "recursive", "source", "target")

    def __init__(self, target: str, propagation: str, *, readonly: bool) -> None:
        self.target, self.propagation, self.readonly = target, propagation, readonly
        self.source = ""
        """A bind's, on the host; "" is a tmpfs."""
        self.recursive = False
        self.options: list[tuple[str, str | None]] = []
        """A tmpfs's (tmpfs(5))."""
        self.attributes = 0
        """A tmpfs's MOUNT_ATTR_* (mount_setattr(2))."""


class Process:
    """What is alike for a container's first process and an exec: checked, and ready to be applied."""

    def __init__(self) -> None:
        self.args: list[str] = []
        self.env: dict[str, str] = {}
        self.cwd = "/"
        self.user = ""
        self.groups: list[str] = []
        self.capabilities = 0
        self.permitted = 0
        """What the supervisor itself has."""
        self.no_new_privileges = False
        self.seccomp = b""
        self.rlimits: list[tuple[int, int, int]] = []
        self.oom_score_adj: int | None = None
        self.stdio: list[int] = []
        """Descriptors for 0, 1, 2; -1 is the null device."""
        self.null = -1
        """The null device, opened by the supervisor: the container's may be a link to anywhere."""
        self.tty = False
        self.cgroup_tasks: list[str] = []
        """Files of v1 hierarchies into which "0" is written."""
        self.tolerant = False
        """In a user namespace: a forbidden chown or setgroups is no error."""

    def descriptors(self) -> list[int]:
        """All that the child needs on its way into the container, besides stdio and its two pipes; -1 is none."""
        return []


class Launch(Process):
    """A container's first process."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = -1
        """A file that it makes one byte long as soon as it is let go (supervisor/records.py)."""
        self.hostname = ""
        self.netns = -1
        self.root = -1
        """The detached overlay."""
        self.place = ""
        """An empty directory on which the child mounts it, in its own mount namespace."""
        self.devpts = -1
        self.console = False
        self.shm_size = 0
        self.privileged = False
        self.readonly = False
        self.cgroup2 = False
        self.mounts: list[Mount] = []
        """In the order in which they are made: a mount below another comes after it."""
        self.devices: list[tuple[str, str, str]] = []
        """Path on the host, path in the container, access ("rwm")."""
        self.host_devices = False
        """All of the host's too."""
        self.device_group = self.device_group2 = ""
        """The v1 or v2 group that is to be kept from all other devices; "" is none."""
        self.init = -1
        """A detached bind of the init program, for /sbin/docker-init."""
        self.sysctls: list[tuple[str, str]] = []
        """Path below /proc/sys and value."""
        self.masked: list[str] = []
        self.read_only_paths: list[str] = []

    def descriptors(self) -> list[int]:
        return [self.begun, self.netns, self.root, self.devpts, self.init]


class Join(Process):
    """A process that joins a running container; the child is born in its pid namespace."""

    def __init__(self) -> None:
        super().__init__()
        self.target = -1
        """pidfd of the container's first process."""

    def descriptors(self) -> list[int]:
        return [self.target]
