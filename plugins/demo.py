"""What ``make demo`` runs: a page, served by a container, fetched in every way that a published port can be reached.

    client 192.0.2.2  ==LAN==  host 192.0.2.1, 127.0.0.1  ==bridge==  web (httpd, port 80 published as 8080)
                                                          ==bridge==  a second container

Each step is a pynet command, or an HTTP request; its line says what came back and how long it took.  What the kernel
and the host hold is noted before the first container and compared after the last.  Runs in a playground: its own, when
it is not started in one.  Exit code 1 when any step failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Facts = dict[str, set[str]]

PAGE = "Hello from a container."
PORT = 8080
OWN = [sys.executable, "-I", "-m"]
FETCH_TIMEOUT = 20.0
LEFT_TIMEOUT = 5.0


class Failed(Exception):
    """A step did not bring what it should."""


class Demo:
    """Runs steps and prints a line for each; ``failures`` counts those that went wrong."""

    def __init__(self) -> None:
        self.failures = 0
        tty = sys.stdout.isatty()
        self._good, self._bad, self._dim, self._plain = (
            ("\033[32m", "\033[31m", "\033[2m", "\033[0m") if tty else ("", "", "", "")
        )

    def step(self, title: str, command: str, action: Callable[[], str]) -> bool:
        """Do *action*, whose answer is shown; False when it failed."""
        print(f"  {title}\n    {self._dim}{command}{self._plain}", flush=True)
        start = time.perf_counter()
        try:
            answer, good = action(), True
        except (Failed, OSError) as error:
            answer, good = str(error), False
            self.failures += 1
        spent = (time.perf_counter() - start) * 1000
        colour = self._good if good else self._bad
        answer = answer.replace("\n", "\n           ")
        print(
            f"    {colour}{'ok' if good else 'FAILED':6}{self._plain} {answer}  {self._dim}{spent:.0f} ms{self._plain}",
            flush=True,
        )
        return good


def pynet(*words: str) -> str:
    """The output of one pynet command; Failed with its error when it fails."""
    done = subprocess.run(
        [*OWN, "pynet", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise Failed(f"exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def fetch(url: str) -> str:
    """GET *url*.  A server that has just been started may not listen yet: asked again until it answers."""
    from urllib.error import URLError
    from urllib.request import urlopen

    deadline = time.monotonic() + FETCH_TIMEOUT
    while True:
        try:
            with urlopen(url, timeout=5) as answer:
                return str(answer.read().decode().strip())
        except (URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise Failed(f"{url}: {error}") from None
            time.sleep(0.02)


def expect(text: str) -> str:
    """*text*, which has to be the page."""
    if text != PAGE:
        raise Failed(f"got {text!r}")
    return f'"{text}"'


def _page(get: Callable[[str], str], url: str) -> str:
    return expect(get(url))


def from_lan(url: str) -> str:
    """GET *url* on the LAN's client."""
    command = [*OWN, "pynet", "playground", "--lan", "--", *OWN, "pynet.plugins.demo", "--fetch", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip())
    return done.stdout.strip()


# -- what is left -------------------------------------------------------------------------------------------------


def facts(run: str) -> Facts:
    """What a container could leave behind, by kind."""
    found: Facts = {
        "links": set(os.listdir("/sys/class/net")),
        "processes": {
            pid
            for pid in os.listdir("/proc")
            if pid.isdecimal() and int(pid) != os.getpid() and not _is_engines(pid, run)
        },
        "mounts": set(_lines("/proc/self/mounts")),
        "listening sockets": _listening(),
        "namespaces": set(_names(os.path.join(run, "netns"))),
        "containers": set(_names(os.path.join(run, "containers"))),
        "firewall rules": _firewall(),
    }
    return found


def _is_engines(pid: str, run: str) -> bool:
    """Whether it is one of the engine's own processes: some start with the first container, and stay for the next."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return run.encode() in words and any(word.startswith(b"pynet.") for word in words)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().splitlines()


def _listening() -> set[str]:
    found: set[str] = set()
    for name, states in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in _lines(f"/proc/net/{name}")[1:]:
            fields = line.split()
            if fields[3] == states:
                found.add(f"{name} port {int(fields[1].rpartition(':')[2], 16)}")
    return found


def _firewall() -> set[str]:
    try:
        done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return set()
    return {re.sub(r"(packets|bytes) \d+", "", line).strip() for line in done.stdout.splitlines()}


def difference(before: Facts, after: Facts) -> list[str]:
    """What is in one and not in the other, a line each.  Pure."""
    return [
        f"{kind}: {sign}{item}"
        for kind in before
        for sign, items in (("+", after[kind] - before[kind]), ("-", before[kind] - after[kind]))
        for item in sorted(items)
    ]


def _nothing_left(before: Facts, run: str) -> str:
    """A sentence when all is as before; Failed with the differences when it is not, or not soon.

    The kernel takes a network namespace apart in the background (cleanup_net), and its links with it.
    """
    deadline = time.monotonic() + LEFT_TIMEOUT
    while changes := difference(before, facts(run)):
        if time.monotonic() > deadline:
            raise Failed("\n".join(changes))
        time.sleep(0.02)
    return f"the same {', '.join(before)} as before"


# -- the demo -----------------------------------------------------------------------------------------------------


def show() -> int:
    """All steps, in a playground."""
    from .lan import CLIENT, HOST
    from .playground_inside import INSIDE_VARIABLE

    demo = Demo()
    run = os.environ["PYNET_RUN"]
    directory = os.path.join(os.environ[INSIDE_VARIABLE], "www")
    os.makedirs(directory, exist_ok=True)
    os.chmod(os.environ[INSIDE_VARIABLE], 0o755)  # httpd reads the page as whoever the image says
    with open(os.path.join(directory, "index.html"), "w", encoding="utf-8") as file:
        file.write(PAGE + "\n")
    host4, host6 = HOST[0][0], HOST[1][0]
    print(f"A host at {host4} with a client on its LAN at {CLIENT[0][0]}; nothing outside of it is touched.\n")
    if not demo.step("Make the default image of the busybox on this machine", "pynet image bootstrap", _bootstrap):
        return 1
    before = facts(run)
    serve = f"-d --name web -p {PORT}:80 -v {directory}:/www:ro busybox httpd -f -p 80 -h /www"
    if demo.step(
        "Start a web server in a container",
        f"pynet run {serve}",
        lambda: f"container {pynet('run', *serve.split())[:12]}",
    ):
        demo.step(
            "Which containers run?", "pynet ps", lambda: pynet("ps", "--format", "{{.Names}}  {{.Status}}  {{.Ports}}")
        )
        for who, url in (
            ("The host asks 127.0.0.1", f"http://127.0.0.1:{PORT}/"),
            ("The host asks its own address", f"http://{host4}:{PORT}/"),
            ("The host asks its own IPv6 address", f"http://[{host6}]:{PORT}/"),
        ):
            demo.step(who, f"GET {url}", partial(_page, fetch, url))
        for url in (f"http://{host4}:{PORT}/", f"http://[{host6}]:{PORT}/"):
            demo.step("The client on the LAN asks the host", f"GET {url}", partial(_page, from_lan, url))
        inside = f"run --rm busybox wget -qO- http://{host4}:{PORT}/"
        demo.step(
            "A second container asks through the host's address (hairpin)",
            f"pynet {inside}",
            lambda: expect(pynet(*inside.split())),
        )
        demo.step("Is in the kernel what should be there?", "pynet check", lambda: pynet("check"))
    demo.step("Remove the container", "pynet rm -f web", lambda: f"removed {pynet('rm', '-f', 'web')}")
    demo.step("Is anything left?", "links, namespaces, rules, ... before and after", lambda: _nothing_left(before, run))
    demo.step("End the engine", "pynet daemon stop --all", lambda: pynet("daemon", "stop", "--all"))
    _farewell(demo.failures)
    return 1 if demo.failures else 0


def _bootstrap() -> str:
    return f"busybox:latest is {pynet('image', 'bootstrap').removeprefix('sha256:')[:12]}"


def _farewell(failures: int) -> None:
    if failures:
        print(f"\n{failures} step{'s' if failures > 1 else ''} failed.")
        return
    command = os.path.join(os.path.dirname(sys.executable), "pynet")
    shown = os.path.relpath(command) if os.path.exists(command) else "pynet"
    print(
        f"\nAll of it worked, and nothing is left.  What to type next:\n\n"
        f"  {shown} playground                      a shell on such a host, for which nobody needs to be root; in it:\n"
        f"  pynet image bootstrap\n"
        f"  pynet run -d -p 8080:80 busybox httpd -f -p 80 -h /etc\n"
        f"  pynet ps\n\n"
        f"docs/getting-started.md goes on from there."
    )


def main(argv: list[str] | None = None) -> int:
    """The demo, or with ``--fetch URL`` one request (the LAN's client runs that)."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["--fetch"] and len(words) == 2:
        try:
            print(fetch(words[1]))
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    from .playground import main as playground
    from .playground_inside import INSIDE_VARIABLE

    return show() if os.environ.get(INSIDE_VARIABLE) else playground([*OWN, "pynet.plugins.demo"])


if __name__ == "__main__":
    raise SystemExit(main())
