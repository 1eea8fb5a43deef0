"""rtnetlink against the kernel: what is asked for is there, what fails says which step."""

from __future__ import annotations

from pynet.plugins.testhost import Host, Lan


def test_a_lan_client_reaches_the_host(host: Host, lan: Lan) -> None:
    for address in (lan.host_address, lan.host_address6):
        with host.listen((address, 0)) as listener, lan.connect(listener.getsockname()[:2]) as client:
            server, peer = listener.accept()
            with server:
                assert peer[0] == (lan.address6 if ":" in address else lan.address)
                client.sendall(b"hello")
                assert server.recv(5) == b"hello"
