"""[network.NAME] and `networks` of containers: both families, drivers, what cannot be, and what an upgrade
leaves alone."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from agent import render
from runtime.wishes import NetworkOptions
from specs.desired import Attachment, DesiredContainer, DesiredNetwork
from specs.fingerprint import fingerprints, network_fingerprint, same_but_networks, same_network
from tests.spec_text import read

ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
MTU = "com.docker.network.driver.mtu"
LAN = 'driver = "macvlan"\nsubnet = "192.168.7.0/24"\n'


def network(text: str) -> DesiredNetwork:
    wanted, problems = read({"p/n.toml": f"[network.n]\n{text}"})
    assert problems == []
    return wanted.networks["p/n"]


def wrong(text: str) -> list[str]:
    return read({"p/n.toml": f"[network.n]\n{text}"})[1]


# ---------------------------------------------------------------- networks


def test_one_subnet_of_each_family_in_any_order() -> None:
    found = network('subnet = ["fd00:7::/64", "10.88.7.0/24"]\ngateway = ["fd00:7::fe", "10.88.7.9"]')
    assert (found.subnet, found.gateway) == ("10.88.7.0/24", "10.88.7.9")
    assert (found.ipv6, found.subnet6, found.gateway6) == (True, "fd00:7::/64", "fd00:7::fe")


def test_ipv6_alone_leaves_both_subnets_to_the_node() -> None:
    found = network("enable_ipv6 = true")
    assert (found.ipv6, found.subnet, found.subnet6) == (True, "", "")


def test_compose_s_ipam_means_the_same_as_the_flat_words() -> None:
    flat = network('subnet = ["10.88.7.0/24", "fd00:7::/64"]\ngateway = ["10.88.7.9", "fd00:7::9"]')
    ipam = network(
        'enable_ipv6 = true\nipam = { config = [{ subnet = "10.88.7.0/24", gateway = "10.88.7.9" }, '
        '{ subnet = "fd00:7::/64", gateway = "fd00:7::9" }] }'
    )
    assert replace(ipam, place=None) == replace(flat, place=None)


def test_a_range_and_reserved_addresses_reach_the_runtime() -> None:
    found = network(
        'ipam.config = [{ subnet = "10.88.7.0/24", ip_range = "10.88.7.128/25", '
        'aux_addresses = { printer = "10.88.7.130" } }, { subnet = "fd00:7::/64", '
        'ip_range = "fd00:7::100/120" }]'
    )
    options = render.network_request("s", found).options
    assert (options.ip_range, options.ip_range6) == ("10.88.7.128/25", "fd00:7::100/120")
    assert options.reserved == ("10.88.7.130",)


def test_options_of_drivers_reach_the_runtime() -> None:
    found = network(f'driver_opts = {{ "{MTU}" = 1400, "{ICC}" = "false", "{MASQUERADE}" = false }}')
    assert render.network_request("s", found).mtu == 1400
    assert render.network_request("s", found).options == NetworkOptions(icc=False, masquerade=False)
    lan = network(f'{LAN}driver_opts = {{ parent = "eth0", macvlan_mode = "vepa" }}')
    assert render.network_request("s", lan).options == NetworkOptions("macvlan", "eth0", "vepa")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'subnet = ["10.1.0.0/24", "10.2.0.0/24"]',
            "2:10: network.n.subnet: there is one subnet of IPv4 in a network, "
            "not 10.1.0.0/24 and 10.2.0.0/24",
        ),
        ("subnet = []", "2:10: network.n.subnet: write a subnet, or leave it out"),
        (
            'gateway = "fd00::1"',
            "2:11: network.n.gateway: a gateway of IPv6 needs a subnet of IPv6 (write subnet too)",
        ),
        (
            'subnet = "fd00::/64"\ngateway = "fd00:1::1"',
            "3:11: network.n.gateway: gateway fd00:1::1 is not a host address of fd00::/64",
        ),
        (
            'subnet = "fd00::/64"\nenable_ipv6 = false',
            "3:15: network.n.enable_ipv6: it has the IPv6 subnet fd00::/64 "
            "(write true, or leave out the subnet)",
        ),
        (
            "enable_ipv4 = false\nenable_ipv6 = true",
            "2:15: network.n.enable_ipv4: a network without IPv4: not supported yet (leave enable_ipv4 out)",
        ),
        (
            'name = "x"',
            "2:8: network.n.name: a name of its own for a network: not supported yet "
            "(it is called by its project and its table; a name is for external = true)",
        ),
        ("ipv6 = true", "2:1: network.n: unknown key 'ipv6' (write `enable_ipv6`)"),
        (
            'ipam = { driver = "dhcp" }',
            "2:19: network.n.ipam.driver: an ipam driver 'dhcp': not supported yet (leave it out)",
        ),
        (
            'ipam.config = [{ gateway = "10.1.0.1" }]',
            "2:16: network.n.ipam.config[0]: a pool needs a subnet (write subnet too)",
        ),
        (
            'subnet = "10.1.0.0/24"\nipam.config = [{ subnet = "10.2.0.0/24" }]',
            "3:27: network.n.ipam.config[0].subnet: the network has a subnet of IPv4 already",
        ),
        (
            'ipam.config = [{ subnet = "10.1.0.0/24", ip_range = "10.2.0.0/25" }]',
            "2:53: network.n.ipam.config[0].ip_range: ip_range 10.2.0.0/25 is not within 10.1.0.0/24",
        ),
        (
            'ipam.config = [{ subnet = "10.1.0.0/24", aux_addresses = { a = "10.2.0.1" } }]',
            "2:58: network.n.ipam.config[0].aux_addresses: 10.2.0.1 is not a host address of 10.1.0.0/24",
        ),
        (
            'driver_opts = { "com.docker.network.bridge.name" = "br0" }',
            "2:17: network.n.driver_opts.com.docker.network.bridge.name: driver bridge has no option "
            f"'com.docker.network.bridge.name' here (known are {MTU}, {ICC}, {MASQUERADE})",
        ),
        (
            f'driver_opts = {{ "{ICC}" = "maybe" }}',
            f"2:58: network.n.driver_opts.{ICC}: write true or false, not 'maybe'",
        ),
        (
            f'mtu = 1400\ndriver_opts = {{ "{MTU}" = 1300 }}',
            f"3:51: network.n.driver_opts.{MTU}: mtu is 1400 already (leave one of them out)",
        ),
        (
            'driver = "macvlan"\ndriver_opts = { parent = "eth0" }',
            "1:1: network.n: macvlan needs the subnet of the network that its interface is on "
            '(such as subnet = "192.168.1.0/24", and the gateway that is there)',
        ),
        (
            LAN,
            "1:1: network.n: macvlan needs the host's interface that it is on "
            '(write driver_opts = { parent = "eth0" })',
        ),
        (
            f'{LAN}driver_opts = {{ parent = "eth0", macvlan_mode = "source" }}',
            "4:49: network.n.driver_opts.macvlan_mode: there is no macvlan mode 'source' "
            "(one of bridge, private, vepa, passthru)",
        ),
    ],
)
def test_what_a_network_cannot_be_is_said_at_its_place(text: str, problem: str) -> None:
    assert wrong(text) == [f"p/n.toml:{problem}"]


def test_ipv6_subnets_of_one_source_do_not_overlap() -> None:
    text = '[network.a]\nsubnet = "fd00::/48"\n[network.b]\nsubnet = ["10.1.0.0/24", "fd00:0:0:7::/64"]\n'
    assert read({"p/a.toml": text})[1] == [
        "p/a.toml:4:10: network.b.subnet: subnet fd00:0:0:7::/64 overlaps fd00::/48 of network 'p/a' "
        "(p/a.toml:1)"
    ]


# ---------------------------------------------------------------- memberships

BOTH = '[network.n]\nsubnet = ["10.1.0.0/24", "fd00::/64"]\n[network.m]\nsubnet = "10.2.0.0/24"\n'


def container(lines: str) -> tuple[tuple[Attachment, ...], list[str]]:
    wanted, problems = read({"p/c.toml": f'{BOTH}[container.c]\nimage = "i"\n{lines}'})
    return wanted.containers["p/c"].networks if not problems else (), problems


def test_all_of_a_membership_reaches_the_runtime() -> None:
    networks, problems = container(
        'networks.n = { ipv6_address = "fd00::9", gw_priority = 5, interface_name = "lan0", '
        'link_local_ips = ["169.254.7.7", "fe80::7"] }'
    )
    assert problems == []
    assert networks == (Attachment("p/n", (), "", "", "fd00::9", 5, "lan0", ("169.254.7.7", "fe80::7")),)


def test_networks_of_a_higher_priority_are_joined_first() -> None:
    networks, _ = container("networks = { n = {}, m = { priority = 10 }, default = { priority = 5 } }")
    assert [one.network for one in networks] == ["p/m", "p/default", "p/n"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            'networks.n.ipv6_address = "fd01::9"',
            "networks.n.ipv6_address: fd01::9 is not a host address of fd00::/64",
        ),
        (
            'networks.n.ipv6_address = "fd00::1"',
            "networks.n.ipv6_address: fd00::1 is the gateway of network 'n'",
        ),
        (
            'networks.m.ipv6_address = "fd00::9"',
            "networks.m.ipv6_address: network 'm' has no subnet of IPv6 of its own "
            "(write subnet in [network.m])",
        ),
        (
            'networks.n.interface_name = "a/b"',
            "networks.n.interface_name: an interface cannot be called 'a/b' "
            "(up to 15 characters, no blanks, no / : %)",
        ),
        (
            'networks.n.link_local_ips = ["10.0.0.1"]',
            "networks.n.link_local_ips: 10.0.0.1 is no link-local address (of 169.254.0.0/16 or fe80::/10)",
        ),
        (
            'networks = { n = {}, m = { interface_name = "eth0" } }',
            "networks.m.interface_name: eth0 is the interface on network 'n' already (choose another name)",
        ),
        (
            'replicas = 2\nnetworks.n.ipv6_address = "fd00::9"',
            "networks: 2 replicas cannot share one address in 'p/n'",
        ),
    ],
)
def test_what_a_membership_cannot_be_is_said(lines: str, problem: str) -> None:
    (found,) = container(lines)[1]
    assert found.partition(": container.c.")[2] == problem


@pytest.mark.parametrize("what", ['ipv6_address = "fd00::9"', 'mac_address = "02:00:00:00:00:09"'])
def test_two_containers_cannot_ask_for_one_address(what: str) -> None:
    one = f'image = "i"\nnetworks.n.{what}\n'
    text = f"{BOTH}[container.a]\n{one}[container.b]\n{one}"
    (found,) = read({"p/c.toml": text})[1]
    assert found.startswith("p/c.toml:10:") and found.endswith("is asked for by 'p/a' already (p/c.toml:5)")


def test_an_external_network_is_called_as_it_says_and_is_not_made() -> None:
    text = (
        '[network.lab]\nexternal = true\nname = "lab/net"\n[network.proxy]\nexternal = true\n'
        '[network.default]\nexternal = true\nname = "shop/front"\n'
        '[container.a]\nimage = "i"\nnetworks.lab.ipv4_address = "10.9.0.9"\nnetworks.proxy = {}\n'
        '[container.b]\nimage = "i"\n'
    )
    wanted, problems = read({"p/c.toml": text})
    assert problems == [] and wanted.networks == {}
    assert list(wanted.external_networks) == ["default/proxy", "lab/net", "shop/front"]
    assert [one.network for one in wanted.containers["p/a"].networks] == ["lab/net", "default/proxy"]
    assert [one.network for one in wanted.containers["p/b"].networks] == ["shop/front"]


def test_two_names_for_one_external_network_are_one_too_many() -> None:
    table = 'external = true\nname = "lab/net"\n'
    text = f"[network.a]\n{table}[network.b]\n{table}[container.c]\nimage = 'i'\nnetworks = ['a', 'b']\n"
    assert read({"p/c.toml": text})[1] == [
        "p/c.toml:9:18: container.c.networks[1]: network 'lab/net' stands here twice"
    ]


# ---------------------------------------------------------------- fingerprints


def test_an_upgrade_replaces_no_network_and_no_container() -> None:
    """As release 0.1.0 wrote them down."""
    assert network_fingerprint(DesiredNetwork("p/n")) == "44136fa355b3678a1146ad16f7e8649e"
    old = {"subnet": "10.1.0.0/24", "internal": True}
    made = DesiredNetwork("p/n", subnet="10.1.0.0/24", internal=True)
    assert network_fingerprint(made) == _digest(old)
    container = DesiredContainer("p/c", "i", networks=(Attachment("p/n", ("x",), "10.1.0.9"),))
    facets = json.loads(fingerprints(container, image="i")[2])
    assert facets == {
        "identity": {"image": "i", "networks": ["p/n"], "networks.p/n.ipv4_address": "10.1.0.9"},
        "adjustable": {"networks.p/n.aliases": ["x"]},
    }


def _digest(facets: dict[str, object]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(facets, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def test_every_field_of_a_network_but_its_labels_makes_another_one() -> None:
    plain = DesiredNetwork("p/n")
    other = {"subnet": "10.1.0.0/24", "mtu": 1400, "reserved": ("10.1.0.9",), "driver": "macvlan"}
    for field in fields(DesiredNetwork):
        if field.name in ("name", "labels", "fingerprint", "place"):
            continue
        value = getattr(plain, field.name)
        new = other.get(field.name, not value if isinstance(value, bool) else "x")
        changed = replace(plain, **{field.name: new})
        assert not same_network(network_fingerprint(plain), network_fingerprint(changed)), field.name


def _facets(**fields: object) -> str:
    return fingerprints(DesiredContainer("p/c", "i", **fields), image="i")[2]  # type: ignore[arg-type]


def test_networks_of_a_container_change_in_place_and_nothing_else_with_them() -> None:
    one, both = (Attachment("p/n"),), (Attachment("p/m", (), "10.2.0.9"), Attachment("p/n"))
    assert same_but_networks(_facets(networks=one), _facets(networks=both))
    assert same_but_networks(_facets(networks=one), _facets(networks=one, labels={"a": "b"}))
    assert not same_but_networks(_facets(networks=one), _facets(networks=both, user="1"))
    assert not same_but_networks(_facets(networks=one), _facets(network_mode="none"))
    assert not same_but_networks("", _facets(networks=one))
