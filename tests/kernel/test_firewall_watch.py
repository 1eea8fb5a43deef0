"""What others take away comes back by itself, and nobody is stormed: with real programs that flush, reload and rewrite."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from pynet.netlib.controller import Controller
from pynet.netlib.firewall.watch import FirewallWatch
from pynet.netlib.ports.portspec import parse_publish
from pynet.plugins.testhost import Lan

from support.answering import Servers
from support.netlib import inside_of
from support.waiting import until


@pytest.fixture(params=["nftables", "iptables"])
def controller(request: pytest.FixtureRequest, start_controller: Callable[..., Controller]) -> Controller:
    return start_controller(request.param)


@pytest.fixture
def watch(controller: Controller) -> Iterator[FirewallWatch]:
    """Over a network with a published port."""
    sandbox = controller.create_sandbox("a")
    controller.create_network("web", subnet="10.1.0.0/24").create_endpoint("a").join(sandbox)
    sandbox.publish(parse_publish("8080:80"))
    with controller.watch_firewall() as watch:
        yield watch


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


def is_whole(controller: Controller) -> bool:
    networks, ports = controller.tools.firewall_state(needed=True)
    return len(networks) == 1 and len(ports) == 1


TAKING = {
    "nftables": ["nft flush ruleset", "nft delete table inet {}", "nft flush table inet {}", "nft flush chain inet {} forward",
                 "nft flush set inet {} bridges"],
    "iptables": ["iptables-legacy -F FORWARD", "iptables-legacy -t nat -F", "iptables-legacy -t raw -F PREROUTING"],
}  # fmt: skip


def test_what_is_taken_comes_back_within_a_moment(
    controller: Controller, watch: FirewallWatch, lan: Lan, request: pytest.FixtureRequest
) -> None:
    name = controller.tools.firewall.name
    table = f"pynet-{controller.instance.suffix}" if controller.instance.suffix else "pynet"
    servers = Servers()
    request.addfinalizer(servers.close)
    with inside_of(controller, controller.sandbox("a")) as inside:
        servers.serve("a", inside, 80)
        for number, command in enumerate(TAKING[name][:4], 1):
            run(command.format(table))
            until(lambda number=number: watch.repairs == number, f"{command} was not noticed")  # type: ignore[misc]
            assert is_whole(controller), command
            with lan.connect((lan.host_address, 8080)) as client:
                assert client.recv(64) == f"a {lan.address}".encode()
    assert controller.check() == []


def test_what_we_do_ourselves_is_passed_over(controller: Controller, watch: FirewallWatch) -> None:
    for number in range(2, 6):
        network = controller.create_network(f"n{number}", subnet=f"10.{number}.0.0/24")
        endpoint = network.create_endpoint("b")
        sandbox = controller.create_sandbox(f"s{number}")
        endpoint.join(sandbox)
        sandbox.publish(parse_publish(f"{8080 + number}:80"))
        sandbox.delete()
        endpoint.delete()
        network.delete()
    controller.tools.firewall.replace(*controller.tools.firewall_state(needed=True))
    run("nft add table inet mine")  # the watch reads in order: when this one was looked at, the others were passed over
    until(lambda: watch.looks > 0, "another's change was not looked at")
    assert watch.looks <= 2, "one for the table, and one look at the legacy tables at most"
    assert watch.repairs == 0
    run("nft delete table inet mine")


def test_the_users_own_chain_is_the_users(controller: Controller, watch: FirewallWatch, lan: Lan) -> None:
    if controller.tools.firewall.name == "iptables":
        run("iptables-legacy -A PYNET-USER -i eth0 -j DROP".replace("PYNET-", _prefix(controller)))
    else:
        run(f"nft add rule inet pynet-{controller.instance.suffix} pynet_user iifname eth0 drop")
    run("nft add table inet mine")
    until(lambda: watch.looks > 0, "another's change was not looked at")
    assert watch.repairs == 0
    run("nft delete table inet mine")


def _prefix(controller: Controller) -> str:
    return f"PYNET-{controller.instance.suffix}-" if controller.instance.suffix else "PYNET-"


def test_accepts_in_the_chains_of_others_come_back_and_new_policies_are_met(
    controller: Controller, watch: FirewallWatch
) -> None:
    """iptables-nft of another program: a reload takes our ACCEPTs, a policy that was set makes them needed."""
    bridge = controller.network("web").bridge

    def accepts() -> int:
        done = subprocess.run(["nft", "list", "ruleset", "ip"], check=True, capture_output=True, text=True)
        return done.stdout.count(f'"{bridge}" accept comment')

    run("nft add table ip own")
    run("nft add chain ip own f { type filter hook forward priority 9 ; policy drop ; }")
    until(lambda: accepts() == 2, "the new policy was not noticed")
    run("nft flush chain ip own f")
    until(lambda: accepts() == 2, "our ACCEPTs did not come back")
    run("nft delete table ip own")
    assert is_whole(controller)


def test_a_program_that_goes_on_rewriting_is_named_and_not_followed(
    controller: Controller, watch: FirewallWatch
) -> None:
    if controller.tools.firewall.name == "iptables":
        pytest.skip("legacy tables tell nobody who it was")
    table = f"pynet-{controller.instance.suffix}" if controller.instance.suffix else "pynet"
    begun = 0.0
    for number in range(1, 6):
        begun = time.monotonic()
        run(f"nft delete table inet {table}")
        until(lambda number=number: watch.repairs == number, "it was not put back")  # type: ignore[misc]
    run(f"nft delete table inet {table}")
    (said,) = controller.warnings()
    assert re.match(r"The program nft keeps taking the firewall's rules away \([56] times\)", said), said
    assert watch.repairs == 5 or time.monotonic() - begun > 1, "the sixth has to wait"
    controller.create_network("more", subnet="10.9.0.0/24")
    assert len(controller.tools.firewall_state(needed=True)[1]) == 1, "a change of ours brings all back at once"


def test_a_watch_ends_with_its_controller_and_gives_up_what_it_had(controller: Controller) -> None:
    with controller.watch_firewall() as watch:
        assert controller.watch_firewall() is watch
    watch.close()
    again = controller.watch_firewall()
    assert again is not watch
