"""libnftables, the library of the nft command, through ctypes: text in, text out, no process.

A context holds a netlink socket, which belongs to the network namespace of the thread that made the context;
afterwards any thread may use it.  A context is not thread-safe: ``Nft`` has a lock.  One buffer of commands is one
transaction: the kernel takes all of it or nothing.

Man page: libnftables(3).  The calls used here are in every release since 0.9.0.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import threading
from typing import Any

from ..errors import NotSupported

LIBRARY = "libnftables.so.1"
_OUTPUT_JSON, _OUTPUT_TERSE = 1 << 4, 1 << 8
"""nftables/libnftables.h: NFT_CTX_OUTPUT_JSON, NFT_CTX_OUTPUT_TERSE"""
_NAMED = (
    "ENOENT",
    "EEXIST",
    "EBUSY",
    "EPERM",
    "EACCES",
    "EOPNOTSUPP",
    "EPROTONOSUPPORT",
    "EAFNOSUPPORT",
    "ENOMEM",
    "EMSGSIZE",
)
_ERRNO = {os.strerror(getattr(errno, name)): int(getattr(errno, name)) for name in _NAMED}
"""libnftables answers in text; these are the errors that we act upon."""


class NftError(OSError):
    """A transaction that was refused; nothing of it happened.  ``errno`` is EINVAL when the text does not tell another."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, text)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise NotSupported(
            f"{LIBRARY} is not installed", hint="install libnftables1 (Debian, Ubuntu) or nftables (others)"
        ) from None
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("nft_ctx_new", pointer, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [pointer]),
        ("nft_ctx_buffer_output", ctypes.c_int, [pointer]),
        ("nft_ctx_buffer_error", ctypes.c_int, [pointer]),
        ("nft_ctx_get_output_buffer", text, [pointer]),
        ("nft_ctx_get_error_buffer", text, [pointer]),
        ("nft_ctx_output_set_flags", None, [pointer, ctypes.c_uint]),
        ("nft_ctx_set_dry_run", None, [pointer, ctypes.c_bool]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [pointer, text]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Nft:
    """One context, bound to the calling thread's network namespace."""

    def __init__(self) -> None:
        self._library = _load()
        self._lock = threading.Lock()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise NotSupported("libnftables can not open a netlink socket", hint="the kernel needs nf_tables")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Free the context; a second time does nothing."""
        with self._lock:
            context, self._context = self._context, None
            if context:
                self._library.nft_ctx_free(context)

    def run(self, commands: str, *, check: bool = False) -> None:
        """Do *commands* in one transaction; with *check* the kernel just says whether it would."""
        with self._lock:
            self._library.nft_ctx_set_dry_run(self._open(), check)
            self._run(commands, 0)

    def list(self, command: str, *, terse: bool = False) -> list[dict[str, Any]]:
        """The objects that a list command shows, as libnftables-json(5) has them; *terse* leaves elements out."""
        with self._lock:
            self._library.nft_ctx_set_dry_run(self._open(), False)
            output = self._run(command, _OUTPUT_JSON | (_OUTPUT_TERSE if terse else 0))
        try:
            objects: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
        except ValueError as error:  # 1.0.6 at times writes nothing for the flags of a table
            raise NftError(errno.EBADMSG, f"nftables: {command}: what it listed is no JSON: {error}") from error
        return objects

    def _open(self) -> Any:
        if not self._context:
            raise OSError(errno.EBADF, "this nftables context is closed")
        return self._context

    def _run(self, commands: str, flags: int) -> str:
        self._library.nft_ctx_output_set_flags(self._context, flags)
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # both buffers are emptied by being read
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise _error(errors.decode(errors="replace"))
        return str(output.decode())


def _error(report: str) -> NftError:
    lines = [line for line in report.splitlines() if "Error:" in line] or report.splitlines()[:1] or ["no reason given"]
    text = lines[0].partition("Error: ")[2] or lines[0]
    reason = text.rpartition(": ")[2].partition(";")[0]
    return NftError(_ERRNO.get(reason, errno.EINVAL), f"nftables: {text}")
