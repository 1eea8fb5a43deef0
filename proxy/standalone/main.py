"""pynet-proxy: the forwarder by itself, for somebody at a shell or in docker-proxy's place.

    pynet-proxy [OPTION ...] tcp 127.0.0.1:8080 10.1.0.2:80 [udp :53 10.1.0.2:53 ...]
    pynet-proxy -proto tcp -host-ip 127.0.0.1 -host-port 8080 -container-ip 10.1.0.2 -container-port 80 [-use-listen-fd]

The first form serves in the foreground, in this one process and its workers, until SIGTERM or SIGINT (foreground.py).

The second is docker-proxy's, with its descriptors: 3 is told "0\\n" when the port is served or "1\\n" and why not; with
-use-listen-fd, 4 is the socket, bound already (moby, cmd/docker-proxy).  dockerd starts one for each port, so:

    bind or take 4 --> lend to the shared forwarder (lend.py) --> "0\\n" --> become the sleeper (sleeper.py)

The port ends when this process does.  Only what this path needs is imported at the top, and no more than that.
"""

from __future__ import annotations

import os
import sys

from ...netlib.errors import InvalidArgument, PynetError
from ..mapping import DOCKER_FLAGS, USAGE, parse_docker

_READY_FD, _LISTEN_FD = 3, 4


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _docker(words: list[str], ready_fd: int) -> None:
    """Lend the port and become the sleeper; comes back only by an error."""
    from . import lend, sleeper

    mapping, passed = parse_docker(words)
    drain = os.environ.get("PYNET_PROXY_DRAIN", "0")
    try:
        seconds = float(drain)
    except ValueError as error:
        raise InvalidArgument(f"PYNET_PROXY_DRAIN must be a number of seconds, not {drain!r}") from error
    fd = _LISTEN_FD if passed else mapping.bind()
    run = lend.run_directory()
    name = f"{mapping.proto}/{mapping.host_ip}:{mapping.host_port}/{os.getpid()}"
    target = (mapping.target_ip, mapping.target_port)
    control = lend.lend(run, mapping.proto, name, target=target, fd=fd, drain=seconds)
    again = ["-proto", mapping.proto, "-host-ip", mapping.host_ip, "-host-port", str(mapping.host_port)]
    again += ["-container-ip", mapping.target_ip, "-container-port", str(mapping.target_port), "-use-listen-fd"]
    code = "from pynet.proxy.standalone.main import main; raise SystemExit(main())"
    sleeper.become(
        run, [sys.executable, "-I", "-c", code, *again], listener=fd, control=control, ready=b"0\n", ready_fd=ready_fd
    )


def is_docker_form(words: list[str]) -> bool:
    """Go takes one dash or two; the options of the plain form have two, and a -h of its own."""
    if not words or not words[0].startswith("-"):
        return False
    name = words[0].lstrip("-").partition("=")[0]
    return name in DOCKER_FLAGS or not (words[0].startswith("--") or words[0] == "-h")


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    docker = is_docker_form(words)
    if not words:
        print(f"usage: {USAGE}\n       pynet-proxy --help", file=sys.stderr)
        return 2
    # without dockerd's pipe, by hand, the next descriptor that is opened would have that number
    ready_fd = _READY_FD if docker and _is_open(_READY_FD) else -1
    try:
        if docker:
            _docker(words, ready_fd)
        else:
            from . import foreground

            foreground.serve(words)
    except (PynetError, OSError) as error:
        print(f"pynet-proxy: {error}", file=sys.stderr)
        if isinstance(error, PynetError) and error.hint:
            print(error.hint, file=sys.stderr)
        if ready_fd >= 0:
            try:
                os.write(ready_fd, f"1\n{error}".encode())
            except OSError:
                pass  # nobody listens any more
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
