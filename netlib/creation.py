"""How a network comes to be: from a request to its record, its subnets and its place in the kernel; and how it goes.

judged      name, families, configuration, options       an error has touched nothing
opened      subnets, gateways (addressing.py)             given back by whatever fails after
its turn    conflicts with other networks, claims
change      store, then kernel                            undone where a step fails
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network

from ..ipam.errors import NoMoreSubnets, PoolOverlap
from . import shaping
from .change import Change, PoolLease
from .configuration import ConfigurationInUse, ConfigurationNotFound, configuration, configured
from .core import Core, claim_keys, network_key
from .decisions import ActiveEndpoints, check_network
from .driver import Driver, directions, segment
from .errors import InvalidArgument, NotFound
from .kinds.resource import Resource
from .model import IpamConfig, NetworkRecord
from .registry import NetworkNameTaken, NetworkNotFound


def create_network(core: Core, record: NetworkRecord, ipam: Sequence[IpamConfig]) -> str:
    """Make the network that the record asks for, with these subnets; its id.  ``config_only`` and ``config_from`` of the record
    are heeded; its driver, scope and IPAM driver are completed."""
    if core.registry.has_network_named(record.name):
        raise NetworkNameTaken(record.name)
    if record.config_only:
        return _create_configuration(core, record, ipam)
    driver = core.driver(record.driver)
    if not record.config_from:
        return _create(core, driver, record, ipam)
    try:
        config = core.registry.network(record.config_from)
    except NotFound:
        raise ConfigurationNotFound(record.config_from) from None
    # its turn keeps it from being removed meanwhile
    with core.turns.of(network_key(config.id), network_key(record.id)):
        known = core.registry.known(config)
        if not isinstance(known, NetworkRecord) or not known.config_only:
            raise ConfigurationNotFound(record.config_from)
        copied = configured(record, ipam, known)
        return _create(core, driver, copied, copied.ipam)


def _create_configuration(core: Core, record: NetworkRecord, ipam: Sequence[IpamConfig]) -> str:
    check_network(record)
    core.addressing.check(record, ipam)
    record = configuration(replace(record, ipam_driver=record.ipam_driver or "default"), ipam)
    with core.turns.of(network_key(record.id)):
        core.carry_out(Change(save=(record,)))
    return record.id


def _create(core: Core, driver: Driver, record: NetworkRecord, ipam: Sequence[IpamConfig]) -> str:
    record = replace(record, driver=driver.name, scope=driver.scope, ipam_driver=_ipam_driver(driver, record), ipam=())
    check_network(record)
    driver.validate(record)
    shaping.check(record, {}, directions(driver))
    if core.addressing.needs_wire(record) and not segment(driver, record):
        raise InvalidArgument(
            f"the IPAM driver {record.ipam_driver} needs a network on the wire of an interface",
            hint="make one with `-d macvlan -o parent=INTERFACE`",
        )
    record = replace(record, ipam=_open(core, driver, record, ipam))
    try:
        return _make(core, driver, record)
    except BaseException:
        core.addressing.close(record)
        raise


def _open(core: Core, driver: Driver, record: NetworkRecord, ipam: Sequence[IpamConfig]) -> tuple[IpamConfig, ...]:
    def avoid(version: int) -> list[str]:
        return [use.prefix for use in core.host_uses(version)]

    try:
        return core.addressing.open(record, ipam, avoid, driver.reserves(record))
    except PoolOverlap as error:
        holder = _network_with(core, error.holder)
        error.hint = (
            f"{error.requested} overlaps {error.holder} of network {holder}; choose another subnet, or remove it"
        )
        raise
    except NoMoreSubnets as error:
        error.hint = f"{_in_the_way(core, error.version)}; {NoMoreSubnets.hint}"
        raise


def _network_with(core: Core, subnet: str) -> str:
    with core.lock:
        known = core.registry.networks.values()
        found = (one.name for one in known if any(config.subnet == subnet for config in one.ipam))
        return next(found, "that is made just now")


def _in_the_way(core: Core, version: int) -> str:
    """Who has the default subnets: networks, and what of the host lies in their blocks."""
    blocks = [ip_network(str(pool.base)) for pool in core.addressing.pools if pool.base.version == version]
    said = [
        f"the host's {use}"
        for use in core.host_uses(version)
        if any(block.overlaps(ip_network(use.prefix, strict=False)) for block in blocks)
    ]
    with core.lock:
        networks = [one.name for one in core.registry.networks.values() if not one.config_only and one.subnets(version)]
    if networks:
        said.insert(0, f"{len(networks)} networks ({', '.join([*networks[:3], *(['...'] if networks[3:] else [])])})")
    more = f" and {len(said) - 6} more" if said[6:] else ""
    return f"they are used by {', '.join(said[:6])}{more}" if said else "there are none of that size"


def _ipam_driver(driver: Driver, record: NetworkRecord) -> str:
    """ "default" is also what clients say who leave the choice; a network without addresses needs no other."""
    return driver.ipam if record.ipam_driver in ("", "default") else record.ipam_driver


def _make(core: Core, driver: Driver, record: NetworkRecord) -> str:
    plan = core.plans.network(record)
    with core.turns.of(network_key(record.id), *claim_keys(plan, driver)):
        core.check_conflicts(driver, record, plan)
        core.claim(record, plan)
        try:
            mine = tuple(resource for resource in plan if not core.others_have(record, resource))
            if not core.is_showing:
                for resource in plan:
                    if resource not in mine:
                        core.applier.make(resource)  # is there, or should be; stays when what follows fails
            core.carry_out(Change(save=(record,), make=mine, taken=(PoolLease(record),)))
        except BaseException:
            core.give_up(record, plan)
            raise
    return record.id


def remove_network(core: Core, network: NetworkRecord, plan: Sequence[Resource]) -> None:
    """*plan* is the network's.  ActiveEndpoints, ConfigurationInUse."""
    with core.turns.of(network_key(network.id), *claim_keys(plan, core.driver(network.driver))):
        record = core.registry.known(network)
        if not isinstance(record, NetworkRecord):
            raise NetworkNotFound(network.id)
        endpoints = core.registry.endpoints_of_network(record.id)
        if endpoints:
            raise ActiveEndpoints(record, endpoints)
        users = core.registry.networks_configured_from(record.name) if record.config_only else []
        if users:
            raise ConfigurationInUse(record, users)
        try:
            core.carry_out(
                Change(
                    forget=(record,),
                    unmake=tuple(r for r in plan if not core.others_have(record, r)),
                    released=(PoolLease(record),),
                    removal=True,
                    of=f"network {record.name}",
                )
            )
        finally:
            if core.registry.known(record) is None:
                core.give_up(record, plan)
