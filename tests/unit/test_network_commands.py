"""`stead network`: what filters choose, and how options of docker become a network."""

from __future__ import annotations

import argparse

import pytest

from agent.cli.main import Problem
from agent.cli.networks import choosing, create, ls, rows
from runtime.net.records import NetworkRecord
from runtime.wishes import NetworkOptions


def record(name: str, source: str = "", created: float = 0.0, **more: object) -> NetworkRecord:
    labels = str(more.pop("labels", "{}"))
    fields = (name, source, "f", f"stb{name[-1]}", "10.1.0.0/24", "10.1.0.1", False, 1500, labels)
    return NetworkRecord(*fields, created=created, **more)  # type: ignore[arg-type]


ALL = [
    record("lab/a", labels='{"tier": "back", "x": ""}', created=100.0),
    record("shop/b", "git", created=900.0),
    record("shop/lan", "git", options=NetworkOptions("macvlan", "eth0"), created=950.0),
]


def names(*words: str, used: tuple[str, ...] = ("shop/b",)) -> list[str]:
    return [item.name for item in choosing.chosen(words, ls.FILTERS, ALL, used, 1000.0)]


def test_filters_of_one_kind_add_up_and_kinds_narrow_down() -> None:
    assert names() == ["lab/a", "shop/b", "shop/lan"]
    assert names("driver=macvlan") == ["shop/lan"]
    assert names("driver=macvlan", "driver=bridge") == ["lab/a", "shop/b", "shop/lan"]
    assert names("name=shop", "driver=bridge") == ["shop/b"]
    assert names("label=tier") == names("label=tier=back") == names("label=tier=back", "label=x") == ["lab/a"]
    assert names("label=tier=front") == names("label=tier", "label=y") == []
    assert names("label!=tier") == ["shop/b", "shop/lan"]
    assert names("dangling=true") == ["lab/a", "shop/lan"] and names("dangling=0") == ["shop/b"]
    assert names("source=unmanaged") == ["lab/a"] and names("source=git") == ["shop/b", "shop/lan"]
    assert names("until=2m") == ["lab/a"] and names("scope=local", "type=custom") == names()
    assert names("type=builtin") == names("scope=swarm") == []
    assert names(f"id={rows.id_of(ALL[1])[:12]}") == ["shop/b"]


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("dangling", "write KEY=VALUE"),
        ("dangling=perhaps", "write true or false"),
        ("colour=red", "the filters are dangling, driver, id, label, name, scope, source, type, until"),
        ("name!=x", "the filters are"),
        ("type=own", "write custom or builtin"),
        ("until=soon", "cannot read time 'soon'"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(word: str, why: str) -> None:
    with pytest.raises(Problem, match=why) as caught:
        names(word)
    assert caught.value.code == 2


def test_a_network_is_meant_by_its_name_its_last_part_or_its_id() -> None:
    known = {item.name: item for item in [*ALL, record("lab/b")]}
    assert rows.meant(known, "shop/b") is ALL[1] and rows.meant(known, "lan") is ALL[2]
    assert rows.meant(known, rows.id_of(ALL[0])[:5]) is ALL[0]
    with pytest.raises(Problem, match="shop/b, lab/b fit; write the full name"):
        rows.meant(known, "b")
    with pytest.raises(Problem, match="there is no network zz"):
        rows.meant(known, "zz")


def test_docker_s_options_are_those_of_a_spec() -> None:
    flags = ("--ipv6", "--internal", "--label", "a=b$c", "--label", "empty")
    made = create._wanted(_options(*flags, "-o", "com.docker.network.driver.mtu=1400"))
    assert (made.name, made.ipv6, made.internal, made.mtu) == ("lab/net", True, True, 1400)
    assert made.labels == {"a": "b$c", "empty": ""}
    pools = ("--subnet", "fd00::/64", "--subnet", "10.9.0.0/24", "--gateway", "10.9.0.9")
    more = ("--gateway", "fd00::9", "--ip-range", "10.9.0.128/25", "--aux-address", "nas=10.9.0.130")
    made = create._wanted(_options(*pools, *more))
    assert (made.subnet, made.gateway, made.subnet6, made.gateway6) == (
        "10.9.0.0/24",
        "10.9.0.9",
        "fd00::/64",
        "fd00::9",
    )
    assert (made.ip_range, made.reserved) == ("10.9.0.128/25", ("10.9.0.130",))
    lan = create._wanted(_options("-d", "macvlan", "-o", "parent=eth0", "--subnet", "192.168.1.0/24"))
    assert (lan.driver, lan.parent) == ("macvlan", "eth0")


def _options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    create.add_options(parser)
    return parser.parse_args([*words, "lab/net"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--subnet", "10.1.0.0/33"), "cannot read subnet '10.1.0.0/33'"),
        (("--gateway", "10.1.0.1"), "--gateway 10.1.0.1: it needs a --subnet of its family"),
        (
            ("--ip-range", "fd00::/120", "--subnet", "10.1.0.0/24"),
            "--ip-range fd00::/120: it needs a --subnet",
        ),
        (("--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24"), "has a subnet of IPv4 already"),
        (("-d", "overlay"), "'overlay': not supported yet"),
        (("-o", "parent=eth0"), "driver bridge has no option 'parent' here"),
        (("-o", "parent"), "cannot read --opt 'parent': write KEY=VALUE"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(Problem) as caught:
        create._wanted(_options(*words))
    assert why in str(caught.value) and caught.value.code == 2
