"""``busybox:latest`` without a registry: the host's static busybox and a link for each of its applets.

The layer is a function of the busybox binary alone: entries in a fixed order, every time that of the binary, no
compression.  So bootstrapping twice gives the same image id (it was made when it was made first), and nothing is stored
twice.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import tarfile
from typing import Any

from ...netlib.errors import NotSupported

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HINT = "apt install busybox-static (or another statically linked busybox on PATH)"
PLACES = ("/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static")
_PT_INTERP = 3

_DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "lib": 0o755, "proc": 0o755, "root": 0o700, "run": 0o755,
    "sys": 0o755, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755, "var": 0o755, "var/spool": 0o755,
    "var/tmp": 0o1777, "var/www": 0o755,
}  # fmt: skip
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        "www-data:x:33:33:www-data:/var/www:/bin/false\n"
        "nobody:x:65534:65534:nobody:/home:/bin/false\n"
    ),
    "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/protocols": "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\n",
}


def find_busybox() -> str:
    """The path of a static busybox on this host."""
    found = dict.fromkeys(filter(None, (shutil.which("busybox"), *PLACES)))
    dynamic = ""
    for path in found:
        try:
            if is_static_elf(path):
                return path
        except OSError:
            continue
        dynamic = path
    reason = f"{dynamic} is not statically linked" if dynamic else "no busybox is installed"
    raise NotSupported(f"can not make busybox:latest: {reason}", hint=_HINT)


def is_static_elf(path: str) -> bool:
    """True for an ELF program without an interpreter (elf(5)): it runs in a root with no library in it."""
    with open(path, "rb") as file:
        head = file.read(64)
        if len(head) < 52 or head[:4] != b"\x7fELF":
            return False
        wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
        if wide:
            (offset,) = struct.unpack_from(order + "Q", head, 32)
            size, count = struct.unpack_from(order + "HH", head, 54)
        else:
            (offset,) = struct.unpack_from(order + "I", head, 28)
            size, count = struct.unpack_from(order + "HH", head, 42)
        file.seek(offset)
        table = file.read(size * count)
    kinds = [struct.unpack_from(order + "I", table, index * size)[0] for index in range(count)] if size else []
    return bool(kinds) and _PT_INTERP not in kinds


def applets(busybox: str) -> list[str]:
    try:
        result = subprocess.run([busybox, "--list"], capture_output=True, check=True, timeout=10, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotSupported(f"can not make busybox:latest: {busybox} --list failed: {error}", hint=_HINT) from error
    return sorted({name for name in result.stdout.split() if "/" not in name} - {"busybox"})


def make_layer(busybox: str) -> bytes:
    """The image's only layer, an uncompressed tar."""
    mtime = int(os.stat(busybox).st_mtime)
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.mtime, info.linkname = kind, mode, len(data), mtime, link
            archive.addfile(info, io.BytesIO(data))

        for name, mode in _DIRECTORIES.items():
            add(name, tarfile.DIRTYPE, mode)
        with open(busybox, "rb") as file:
            add("bin/busybox", tarfile.REGTYPE, 0o755, file.read())
        for applet in applets(busybox):
            add(f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        add("usr/bin/env", tarfile.SYMTYPE, 0o777, link="../../bin/busybox")  # where scripts look for it
        for name, text in _FILES.items():
            add(name, tarfile.REGTYPE, 0o644, text.encode())
    return output.getvalue()


def make_config(created: str) -> dict[str, Any]:
    """The configuration but for architecture and layers; *created* is RFC 3339."""
    return {
        "created": created,
        "config": {"Cmd": ["sh"], "Env": [PATH], "WorkingDir": "/"},
        "history": [
            {"created": created, "created_by": "pynet image bootstrap", "comment": "the host's static busybox"}
        ],
    }
