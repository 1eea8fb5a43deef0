"""Limits that the host can not keep are said, in Docker's words."""

from __future__ import annotations

from pynet.engine.container.hostconfig import complete_host_config, discarded_limits

ALL = ("cpu", "cpuset", "memory", "pids")


def test_only_limits_that_were_asked_for_and_can_not_be_kept_are_told() -> None:
    plain = complete_host_config({}).config
    limited = complete_host_config({"Memory": 64 << 20, "NanoCpus": 500_000_000, "PidsLimit": 20}).config
    assert discarded_limits(plain, ()) == []
    assert discarded_limits(limited, ALL) == []
    assert discarded_limits(limited, ("cpu", "pids")) == [
        "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
    ]
    assert len(discarded_limits(limited, ())) == 3
