"""Configuration-only networks: a configuration under a name, that networks are made from.  Pure.

    create_network("office", config_only=True, ipam=[...], options={...})      nothing in the kernel, no pool taken
    create_network("web", config_from="office")                                copied once, then on its own

The copy has what the network is for (addresses, options of the driver, labels); what is the operator's to say (internal,
attachable, driver) comes with each network.  A configuration stays while a network was made from it.  Rules and texts are
moby's (daemon/libnetwork/network.go, validateConfiguration).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .errors import Forbidden, NotFound
from .model import IpamConfig, NetworkRecord


class ConfigurationInUse(Forbidden):
    def __init__(self, config: NetworkRecord, users: Sequence[NetworkRecord]) -> None:
        named = ", ".join(user.name for user in users[:5])
        super().__init__(
            f'configuration network "{config.name}" is in use', hint=f"remove what was made from it first: {named}"
        )
        self.network, self.users = config, tuple(users)


class ConfigurationNotFound(NotFound):
    hint = "make it with `pynet network create --config-only`"

    def __init__(self, name: str) -> None:
        super().__init__(f'configuration network "{name}" does not exist')
        self.ref = name


def configuration(record: NetworkRecord, ipam: Sequence[IpamConfig]) -> NetworkRecord:
    """The record of a configuration-only network; Forbidden when more than a configuration was asked for."""
    if record.internal or record.attachable:
        raise Forbidden(
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported.",
            hint="give those to the networks that are made from it",
        )
    if record.config_from:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    return replace(record, config_only=True, driver="null", scope="local", ipam=tuple(ipam))


def configured(record: NetworkRecord, ipam: Sequence[IpamConfig], config: NetworkRecord) -> NetworkRecord:
    """A network to create, with a configuration in place of one of its own, which is Forbidden; ``ipam`` is the request then."""
    hint = f"leave them out, or leave --config-from {config.name} out"
    if (
        ipam
        or record.ipam_options
        or record.labels
        or record.ipv6
        or not record.ipv4
        or record.ipam_driver not in ("", "default")
    ):
        raise Forbidden(
            "user specified configurations are not supported if the network depends on a configuration network",
            hint=hint,
        )
    if record.options:
        raise Forbidden(
            "network driver options are not supported if the network depends on a configuration network", hint=hint
        )
    return replace(
        record,
        ipv4=config.ipv4,
        ipv6=config.ipv6,
        ipam=config.ipam,
        ipam_driver=config.ipam_driver,
        ipam_options=config.ipam_options,
        options=config.options,
        labels=config.labels,
        config_from=config.name,
    )
