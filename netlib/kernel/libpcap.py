"""libpcap's compiler of filter expressions (pcap-filter(7)), if the library is on this machine; nothing else of it is used.

    "tcp port 80"  ->  instructions of classic BPF, as the kernel takes them (SO_ATTACH_FILTER)

The kernel checks every program that it is given, so the compiler is trusted with no more than its own memory.  Names of hosts in
an expression are looked up as this machine looks names up.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import lru_cache
from typing import Any

from ..errors import InvalidArgument, NotSupported

DLT_EN10MB, DLT_RAW = 1, 12
_NETMASK_UNKNOWN = 0xFFFFFFFF
MOST = 4096
"""Characters of an expression."""


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint), ("instructions", ctypes.c_void_p)]


@lru_cache(maxsize=1)
def _library() -> Any:
    for name in ("libpcap.so.0.8", "libpcap.so.1", ctypes.util.find_library("pcap")):
        if name:
            try:
                library = ctypes.CDLL(name)
            except OSError:
                continue
            library.pcap_open_dead.restype = ctypes.c_void_p
            library.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
            library.pcap_compile.argtypes = [
                *(ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32)
            ]
            library.pcap_geterr.restype = ctypes.c_char_p
            library.pcap_geterr.argtypes = [ctypes.c_void_p]
            library.pcap_freecode.argtypes = [ctypes.POINTER(_Program)]
            library.pcap_close.argtypes = [ctypes.c_void_p]
            return library
    raise NotSupported(
        "filters need libpcap, which is not on the engine's machine",
        hint="install it (Debian: libpcap0.8), or capture without a filter and filter what was captured",
    )


def compile_filter(expression: str, link: int, snaplen: int) -> bytes:
    """The program for packets of the link layer *link* (DLT_*); InvalidArgument with libpcap's words, NotSupported without it."""
    if len(expression) > MOST or "\0" in expression or any("\ud800" <= c <= "\udfff" for c in expression):
        raise InvalidArgument(
            "invalid filter: it is too long, or has a NUL or half a character", hint=f"at most {MOST} characters"
        )
    library = _library()
    handle = library.pcap_open_dead(link, snaplen)
    if not handle:
        raise NotSupported("libpcap could not be used: pcap_open_dead failed")
    program = _Program()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), expression.encode(), 1, _NETMASK_UNKNOWN):
            words = library.pcap_geterr(handle).decode(errors="replace")
            raise InvalidArgument(f"invalid filter {expression!r}: {words}", hint="pcap-filter(7) has the grammar")
        try:
            return ctypes.string_at(program.instructions, program.length * 8) if program.length else b""
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)
