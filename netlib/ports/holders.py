"""Which program has a port that could not be bound: by the kernel's tables of sockets and the descriptors of processes.

    /proc/net/{tcp,udp}[6] --> inode of the socket in the way --> /proc/PID/fd --> pid, name        (proc_net(5), proc_pid_fd(5))

For the sentence after "address already in use", so it looks when the bind has failed and not before.  What can not be known
(a socket that is bound and does not listen, another user's process) is left out.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

_LISTENING = "0A"
"""TCP_LISTEN (net/tcp_states.h): a socket in another state keeps nobody from a port who asks with SO_REUSEADDR."""
_ANY = ("00000000", "0" * 32)


def holder_of(proto: str, host_ip: str, port: int) -> str:
    """ "nginx (pid 4711)", of the calling thread's network namespace; "" when it can not be known."""
    for inode in _sockets(proto, host_ip, port):
        if process := _process_with(f"socket:[{inode}]"):
            return process
    return ""


def _sockets(proto: str, host_ip: str, port: int) -> Iterator[str]:
    """Inodes of the sockets that a bind to this address and port runs into."""
    families = ("",) if ":" not in host_ip else ("6",)
    for family in (*families, "6" if families == ("",) else ""):
        try:
            with open(f"/proc/thread-self/net/{proto}{family}", encoding="ascii") as table:
                lines = table.read().splitlines()[1:]
        except OSError:
            continue  # a kernel without this family or protocol
        wanted = _hex(host_ip) if family in families else ""
        for line in lines:
            words = line.split()
            address, _, number = words[1].partition(":")
            # of the other family, a socket for every address takes part (it may lack IPV6_V6ONLY)
            meets = address in _ANY or (bool(wanted) and (wanted in _ANY or address == wanted))
            if meets and int(number, 16) == port and (proto != "tcp" or words[3] == _LISTENING):
                yield words[9]


def _hex(host_ip: str) -> str:
    """An address as those tables have it: words of 32 bits, each in the byte order of the machine."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host_ip else socket.AF_INET, host_ip)
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _process_with(link: str) -> str:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    found = os.readlink(f"/proc/{pid}/fd/{fd}")
                except FileNotFoundError:
                    continue  # closed meanwhile
                if found == link:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        name = file.read().strip()
                    # a process calls itself what it likes (prctl(2), PR_SET_NAME)
                    return f"{''.join(c if c.isprintable() else '?' for c in name)} (pid {pid})"
        except OSError:
            continue  # it ended meanwhile, or is not ours to look into
    return ""
