"""How a network comes to be: from a request to its record, its subnets and its place in the kernel.

judged      name, families, configuration, options       an error has touched nothing
opened      subnets, gateways (addressing.py)             given back by whatever fails after
its turn    conflicts with other networks, claims
change      store, then kernel                            undone where a step fails
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from . import shaping
from .addressing import host_avoids
from .change import Change, PoolLease
from .configuration import ConfigurationNotFound, configuration, configured
from .core import Core, claim_keys, network_key
from .decisions import check_network
from .driver import Driver, directions
from .errors import NotFound
from .handles import Network
from .model import IpamConfig, NetworkRecord
from .registry import NetworkNameTaken


def create_network(core: Core, record: NetworkRecord, ipam: Sequence[IpamConfig]) -> Network:
    """Make the network that the record asks for, with these subnets.  ``config_only`` and ``config_from`` of the record are
    heeded; its driver, scope and IPAM driver are completed."""
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


def _create_configuration(core: Core, record: NetworkRecord, ipam: Sequence[IpamConfig]) -> Network:
    check_network(record)
    core.addressing.check(record, ipam)
    record = configuration(replace(record, ipam_driver=record.ipam_driver or "default"), ipam)
    with core.turns.of(network_key(record.id)):
        core.carry_out(Change(save=(record,)))
    return Network(core, record.id)


def _create(core: Core, driver: Driver, record: NetworkRecord, ipam: Sequence[IpamConfig]) -> Network:
    record = replace(record, driver=driver.name, scope=driver.scope, ipam_driver=_ipam_driver(driver, record), ipam=())
    check_network(record)
    driver.validate(record)
    shaping.check(record, {}, directions(driver))
    record = replace(record, ipam=core.addressing.open(record, ipam, lambda version: _avoids(core, version)))
    try:
        return _make(core, driver, record)
    except BaseException:
        core.addressing.close(record)
        raise


def _ipam_driver(driver: Driver, record: NetworkRecord) -> str:
    """ "default" is also what clients say who leave the choice; a network without addresses needs no other."""
    return driver.ipam if record.ipam_driver in ("", "default") else record.ipam_driver


def _make(core: Core, driver: Driver, record: NetworkRecord) -> Network:
    plan = core.plans.network(record)
    with core.turns.of(network_key(record.id), *claim_keys(plan, driver)):
        core.check_conflicts(driver, record, plan)
        core.claim(record, plan)
        try:
            core.carry_out(Change(save=(record,), make=tuple(plan), taken=(PoolLease(record),)))
        except BaseException:
            core.give_up(record, plan)
            raise
    return Network(core, record.id)


def _avoids(core: Core, version: int) -> Iterable[str]:
    with core.lock:
        own = {key[1] for key in core.claims() if key[0] == "link"}
    return host_avoids(version, own)
