"""``pynet image ls | rm | import | load | save | tag | bootstrap``, and ``images``, ``rmi`` and the others' short forms."""

from __future__ import annotations

import os
import sys
import time

from ...netlib.errors import InternalError, InvalidArgument
from ..client import Client
from ..format import ago, local_time, short_id, size
from ..objects import each, path
from ..output import Row, add_listing, filters, show_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from ..parser import Arguments, Parser, Run

COLUMNS = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
]
_CHUNK = 1 << 20
_PACE = 0.1
"""Seconds between two reports of progress."""
CLEAR = "\033[K"
"""The rest of the line goes away (ECMA-48, EL)."""
LONG = {"images": "ls", "rmi": "rm"}
BUSYBOX = "busybox:latest"


# -- ls, rm, tag --------------------------------------------------------------------------------------------------


def ls(parser: Parser) -> Run:
    parser.flag("-a", "--all", help="also images without a name")
    parser.flag("--digests", help="show digests")
    add_listing(parser, "ids")
    parser.argument("name", count="?", metavar="NAME[:TAG]")
    return run_ls


def run_ls(args: Arguments) -> int:
    wanted = filters(args.filter)
    if args.name:
        wanted["reference"] = [args.name]
    images: list[dict[str, Any]] = Client(args.settings).get("/images/json", {"all": args.all, "filters": wanted})
    rows = [row for image in images for row in image_rows(image, full=args.no_trunc)]
    if args.quiet:
        rows = list({str(row["ID"]): row for row in rows}.values())
    columns = [*COLUMNS[:2], ("Digest", "DIGEST"), *COLUMNS[2:]] if args.digests else COLUMNS
    show_list(args, images, rows, columns)
    return 0


def image_rows(image: dict[str, Any], *, full: bool = False, now: float | None = None) -> list[Row]:
    """One image of GET /images/json: a row for each of its names."""
    created = float(image.get("Created", 0))
    digests = [str(text).rpartition("@")[2] for text in image.get("RepoDigests") or ()]
    names = [str(text) for text in image.get("RepoTags") or ()] or ["<none>:<none>"]
    return [
        {
            "Repository": name.rpartition(":")[0],
            "Tag": name.rpartition(":")[2],
            "ID": image["Id"] if full else short_id(image["Id"]),
            "Digest": digests[0] if digests else "<none>",
            "CreatedSince": ago(created, now),
            "CreatedAt": local_time(created),
            "Size": size(image.get("Size", 0)),
            "Containers": "N/A" if image.get("Containers", -1) < 0 else str(image["Containers"]),
        }
        for name in names
    ]


def rm(parser: Parser) -> Run:
    parser.flag("-f", "--force", help="also when it has several names, or a stopped container uses it")
    parser.flag("--no-prune", help="keep its parents that have no name")
    parser.argument("image", count="+")
    return run_rm


def run_rm(args: Arguments) -> int:
    query: dict[str, object] = {"force": args.force, "noprune": args.no_prune}

    def show(name: str, answer: list[dict[str, str]] | None) -> None:
        for step in answer or ():
            for what, which in step.items():
                print(f"{what}: {which}")

    # one after the other: what the first leaves behind decides what the second removes
    return each(args, args.image, lambda name: ("DELETE", path(name, "images"), query), show=show, at_once=1)


def tag(parser: Parser) -> Run:
    parser.argument("image")
    parser.argument("name", metavar="NAME[:TAG]")
    return run_tag


def run_tag(args: Arguments) -> int:
    repository, tag = split_reference(args.name)
    Client(args.settings).post(f"{path(args.image, 'images')}/tag", {"repo": repository, "tag": tag})
    return 0


def split_reference(name: str) -> tuple[str, str]:
    """``repo:tag`` -> repo, tag; a colon before a slash belongs to a registry's port."""
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "")


# -- archives -----------------------------------------------------------------------------------------------------


def import_(parser: Parser) -> Run:
    parser.repeated("-c", "--change", metavar="INSTRUCTION", help='Dockerfile instruction, for example "CMD /bin/sh"')
    parser.option("-m", "--message", metavar="TEXT", help="message for the history")
    parser.option("--platform", metavar="PLATFORM", help="platform of the image")
    parser.argument("file", metavar="FILE|-")
    parser.argument("name", count="?", metavar="NAME[:TAG]")
    return run_import


def run_import(args: Arguments) -> int:
    repository, tag = split_reference(args.name or "")
    query = {
        "fromSrc": "-",
        "repo": repository,
        "tag": tag,
        "message": args.message,
        "platform": args.platform,
    }
    target = "&".join(f"changes={_quoted(change)}" for change in args.change)
    with _opened(args.file) as file:
        return _progress(Client(args.settings), "/images/create", query, file, quiet=False, extra=target)


def load(parser: Parser) -> Run:
    parser.option("-i", "--input", metavar="FILE", help="read from a file, not from stdin")
    parser.flag("-q", "--quiet", help="do not print what was loaded")
    return run_load


def run_load(args: Arguments) -> int:
    if not args.input and os.isatty(0):
        raise InvalidArgument("requested load from stdin, but stdin is a terminal", hint="pynet load -i FILE")
    with _opened(args.input or "-") as file:
        return _progress(Client(args.settings), "/images/load", {"quiet": args.quiet}, file, quiet=args.quiet)


def save(parser: Parser) -> Run:
    parser.option("-o", "--output", metavar="FILE", help="write to a file, not to stdout")
    parser.argument("image", count="+")
    return run_save


def run_save(args: Arguments) -> int:
    if not args.output and os.isatty(1):
        raise InvalidArgument("cowardly refusing to save to a terminal", hint="pynet save -o FILE IMAGE")
    names = "&".join(f"names={_quoted(name)}" for name in args.image)
    response = Client(args.settings).stream("GET", "/images/get", extra=names)
    if not args.output:
        for chunk in response.chunks():
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return 0
    partial = f"{args.output}.partial"  # a save that breaks off must not look like an archive
    try:
        with open(partial, "wb") as file:
            for chunk in response.chunks():
                file.write(chunk)
        os.replace(partial, args.output)
    except OSError as error:
        raise InternalError(f"cannot write {args.output}: {error.strerror}", hint="choose another -o") from None
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    return 0


def bootstrap(parser: Parser) -> Run:
    parser.argument("name", count="?", metavar="NAME[:TAG]")
    return run_bootstrap


def run_bootstrap(args: Arguments) -> int:
    answer = Client(args.settings).post("/pynet/images/bootstrap", {"reference": args.name or BUSYBOX}) or {}
    print(answer.get("Id", ""))
    return 0


# -- pieces -------------------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    from ..client import quote

    return quote(text)


def _opened(name: str) -> BinaryIO:
    if name == "-":
        return os.fdopen(os.dup(0), "rb")
    try:
        return open(name, "rb")
    except OSError as error:
        raise InvalidArgument(
            f"cannot read {name}: {error.strerror}", hint="give a tar archive, or - for stdin"
        ) from None


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """The file's content, and at a terminal how much of it has been sent, on a line that goes away again."""
    shown = sys.stderr.isatty()
    total = os.fstat(file.fileno()).st_size
    of = f" of {size(total)}" if total else ""
    sent = next_time = 0.0
    while data := file.read(_CHUNK):
        yield data
        sent += len(data)
        if shown and time.monotonic() >= next_time:
            next_time = time.monotonic() + _PACE
            print(f"\r{CLEAR}sent {size(sent)}{of}", end="", file=sys.stderr, flush=True)
    if shown:
        print(f"\r{CLEAR}", end="", file=sys.stderr, flush=True)


def _progress(
    client: Client, where: str, query: dict[str, Any], file: BinaryIO, *, quiet: bool, extra: str = ""
) -> int:
    """Send an archive and print what the engine says about it; an error in the stream is this command's."""
    response = client.stream(
        "POST", where, query, raw=pieces(file), headers={"Content-Type": "application/x-tar"}, extra=extra
    )
    for message in response.objects():
        if message.get("error"):
            from ..client import DaemonError

            raise DaemonError(500, str(message["error"]))
        text = message.get("stream") or message.get("status") or ""
        if text and not quiet:
            print(str(text).rstrip("\n"))
    return 0
