"""Manual pages, written from the tables that the parser itself reads, and from the guide to the command.

    COMMANDS, GROUPS  -->  each command's Parser  -->  pynet-network-create(1), ...
    docs/cli.md       -->  headings, tables, code -->  pynet(1)

The language is man(7)'s macros, which every formatter knows.  Generators for Python's command lines read argparse, click or the
output of --help; ours has a parser of its own, whose tables say more than its help page does, and what is left to do is this
module.  It is used when a package is built (packaging/share.py), not when a command runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..netlib.version import __version__
from .completion import declared
from .main import COMMANDS, GROUPS
from .parser import Option, Parser

SECTION = "1"
_DATE = "@DATE@"
_MARKS = {None: "{0}", "?": "[{0}]", "+": "{0} [{0}...]", "*": "[{0}...]"}
_GLOBAL = """\
.SH GLOBAL OPTIONS
They stand before the command:
.BR \\-\\-host ,
.BR \\-\\-root ,
.BR \\-\\-run ;
.BR pynet (1)
has them.
"""


def pages(guide: str, date: str) -> dict[str, str]:
    """File name -> text, of every page.  *guide* is the text of docs/cli.md; *date* (2026-01-31) is shown at the foot."""
    found = {"pynet.1": _front(guide)}
    for name, (entry, text) in COMMANDS.items():
        if entry:
            found[f"pynet-{name}.1"] = _command(declared(name, entry, text))
            continue
        found[f"pynet-{name}.1"] = _group(name, text)
        for sub, (inner, help) in GROUPS[name].items():
            found[f"pynet-{name}-{sub}.1"] = _command(declared(f"{name} {sub}", inner, help))
    return {name: text.replace(_DATE, date, 1) for name, text in found.items()}


# -- one command ------------------------------------------------------------------------------------------------------


def _command(parser: Parser) -> str:
    name = f"pynet-{parser.title.replace(' ', '-')}"
    usage = [f"\\fBpynet {escaped(parser.title)}\\fR", "[\\fIOPTIONS\\fR]"]
    usage += [_italic(_MARKS[count].format(shown)) for _, count, shown, _ in parser.arguments]
    lines = [_head(name, parser.description), ".SH SYNOPSIS", " ".join(usage), ".SH DESCRIPTION"]
    lines.append(_text(parser.description + "."))
    if parser.stops_at_first_argument:
        lines += [".PP", _text("Options end at the first argument: what follows it belongs to the container.")]
    explained = [(shown, help) for _, _, shown, help in parser.arguments if help]
    if explained:
        lines.append(".SH ARGUMENTS")
        for shown, help in explained:
            lines += [".TP", _italic(shown), _text(help)]
    lines.append(".SH OPTIONS")
    for option in parser.options:
        lines += [".TP", _option(option), _text(option.help)]
    lines.append(_GLOBAL.rstrip("\n"))
    group, _, _ = parser.title.rpartition(" ")
    lines += [".SH SEE ALSO", ".BR pynet (1)" if not group else f".BR pynet (1),\n.BR pynet\\-{group} (1)"]
    return "\n".join(lines) + "\n"


def _option(option: Option) -> str:
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in sorted(option.names, key=len))
    return names if option.kind == "flag" else f"{names} {_italic(option.metavar)}"


def _group(name: str, text: str) -> str:
    lines = [_head(f"pynet-{name}", text), ".SH SYNOPSIS"]
    lines += [f"\\fBpynet {name}\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARG\\fR...]", ".SH COMMANDS"]
    for sub, (_, help) in GROUPS[name].items():
        lines += [".TP", f".BR pynet\\-{name}\\-{escaped(sub)} (1)", _text(help)]
    return "\n".join([*lines, _GLOBAL.rstrip("\n"), ".SH SEE ALSO", ".BR pynet (1)"]) + "\n"


# -- the front page ---------------------------------------------------------------------------------------------------


def _front(guide: str) -> str:
    lines = [_head("pynet", "Containers and their networks"), ".SH SYNOPSIS"]
    lines += ["\\fBpynet\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARG\\fR...]", ".SH COMMANDS"]
    for name, (_, help) in COMMANDS.items():
        lines += [".TP", f".BR pynet\\-{escaped(name)} (1)", _text(help)]
    return "\n".join([*lines, *_markdown(guide.partition("\n## ")[2])]) + "\n"


def _markdown(text: str) -> Iterator[str]:
    """What docs/cli.md uses of Markdown: headings, paragraphs, lists, tables of two columns and more, indented code."""
    for part in ("## " + text).split("\n## "):
        heading, _, body = part.removeprefix("## ").partition("\n")
        yield f".SH {escaped(heading.upper())}"
        first = True
        for block in re.split(r"\n\s*\n", body.strip("\n")):
            if not block.strip():
                continue
            if not first and not block.startswith(("|", "* ", "### ")):
                yield ".PP"
            first = False
            yield from _paragraph(block)


def _paragraph(block: str) -> Iterator[str]:
    lines = block.splitlines()
    if block.startswith("### "):
        yield f".SS {_inline(lines[0][4:])}"
    elif block.startswith("|"):
        for cells in ([cell.strip() for cell in _CELL.split(line.strip().strip("|"))] for line in lines):
            if any(cells) and not set("".join(cells)) <= set("-: "):
                yield from (".TP", _inline(cells[0]), "; ".join(map(_inline, filter(None, cells[1:]))) or "\\&")
    elif block.startswith("* "):
        for item in re.split(r"^\* ", block, flags=re.MULTILINE)[1:]:
            yield from (".IP \\(bu 2", _inline(" ".join(item.split())))
    elif all(line.startswith("    ") for line in lines):
        yield from (".RS 4", ".nf", *(_text(line[4:]) for line in lines), ".fi", ".RE")
    else:
        yield _inline(" ".join(block.split()))


_CELL = re.compile(r"(?<!\\)\|")


def _inline(text: str) -> str:
    """`code` in bold, links as their words; what a link leads to is no manual page."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("\\|", "|")
    parts = text.split("`")
    return _guarded("".join(f"\\fB{escaped(p)}\\fR" if n % 2 else escaped(p) for n, p in enumerate(parts)))


# -- roff -------------------------------------------------------------------------------------------------------------


def _head(name: str, text: str) -> str:
    title = f'.TH "{escaped(name.upper())}" "{SECTION}" "{_DATE}" "pynet {escaped(__version__)}" "pynet"'
    # what is code is not hyphenated, and lines that can hardly be broken are not stretched
    return f"{title}\n.nh\n.ad l\n.SH NAME\n{escaped(name)} \\- {escaped(text)}"


def escaped(text: str) -> str:
    """Text as roff prints it as it stands: groff_char(7)."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return text.replace("^", "\\(ha").replace("~", "\\(ti")


def _text(text: str) -> str:
    return _guarded(escaped(text)) or "\\&"


def _italic(text: str) -> str:
    return f"\\fI{escaped(text)}\\fR"


def _guarded(line: str) -> str:
    """A line that begins with . or ' would be a request."""
    return "\\&" + line if line.startswith((".", "'")) else line
