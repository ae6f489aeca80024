"""Which containers may change their own network, and what is then no defect."""

from __future__ import annotations

import pytest

from runtime.net.fabric import NetObservation
from runtime.observations import Defect
from runtime.observe import network_defects
from runtime.wishes import ContainerRequest
from specs.values import ImageRef


@pytest.mark.parametrize(
    ("given", "owns"),
    [
        ({}, False),
        ({"privileged": True}, True),
        ({"cap_add": ("NET_ADMIN",)}, True),
        ({"cap_add": ("cap_net_admin",)}, True),
        ({"cap_add": ("ALL",)}, True),
        ({"cap_add": ("ALL",), "cap_drop": ("NET_ADMIN",)}, True),
        ({"cap_add": ("NET_RAW", "SYS_ADMIN")}, False),
    ],
)
def test_who_may_change_addresses_and_routes_owns_its_network(given: dict[str, object], owns: bool) -> None:
    request = ContainerRequest("s/a", "s", "i", "a", "{}", ImageRef.parse("busybox"), **given)  # type: ignore[arg-type]
    assert request.owns_network is owns


def test_routes_of_a_container_that_owns_its_network_are_its_own_matter() -> None:
    link, route = Defect("link", "eth0 is gone"), Defect("route", "its default route is gone")
    net = NetObservation([], {"1": (link, route)}, (), {}, frozenset())
    assert network_defects("1", False, net) == (link, route)
    assert network_defects("1", True, net) == (link,)
    assert network_defects("2", True, net) == ()
