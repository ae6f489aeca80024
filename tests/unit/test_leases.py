"""Leases of addresses in the database: 4,000 on one network, none twice, none again at once, none lost."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.database import Database
from runtime.faults import Fault
from runtime.net import leases, links, records
from runtime.net.fabric import NET_SCHEMA
from runtime.net.records import NetworkRecord
from runtime.wishes import Attachment, NetworkOptions

MANY = 4000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "stead.db", (NET_SCHEMA,))
    yield made
    made.close()


def network(name: str = "p/n", subnet: str = "10.1.0.0/20", **more: object) -> NetworkRecord:
    base = subnet.partition("/")[0].rpartition(".")[0]
    labels, source = "{}", "s"
    return NetworkRecord(name, source, "f", "stbx", subnet, f"{base}.1", False, 1500, labels, **more)  # type: ignore[arg-type]


def take(connection: sqlite3.Connection, id: str, **more: str) -> records.Lease:
    leases.reserve(connection, id, f"p/{id}", [Attachment("p/n", **more)])
    return records.read_leases(connection, container=id)[0]


def test_4000_containers_are_on_one_network_and_the_last_lease_costs_what_the_first_did(
    database: Database,
) -> None:
    with database.write() as connection:
        records.write_network(connection, network(subnet6="fd00::/64", gateway6="fd00::1"))
        begin = time.perf_counter()
        for number in range(MANY):
            leases.reserve(connection, f"c{number}", f"p/c{number}", [Attachment("p/n")])
        took = time.perf_counter() - begin
    held = records.read_leases(database.read())
    assert len({lease.address for lease in held}) == len({lease.address6 for lease in held}) == MANY
    assert len({lease.mac for lease in held}) == MANY
    by_shard = [sum(lease.shard == shard for lease in held) for shard in range(5)]
    assert by_shard == [links.MEMBERS] * 4 + [0]
    with database.write() as connection:
        begin = time.perf_counter()
        for number in range(MANY, MANY + 50):
            leases.reserve(connection, f"c{number}", f"p/c{number}", [Attachment("p/n")])
        late = (time.perf_counter() - begin) / 50
    assert late < 10 * took / MANY + 0.01, f"{took / MANY * 1000:.2f} ms each, then {late * 1000:.2f} ms"


def test_a_full_network_says_so_and_an_address_that_is_given_back_is_the_last_to_be_given_again(
    database: Database,
) -> None:
    with database.write() as connection:
        records.write_network(connection, network(subnet="10.1.0.0/28"))
        given = [take(connection, f"c{number}").address for number in range(13)]
        with pytest.raises(Fault, match="has no free address") as caught:
            take(connection, "more")
        assert caught.value.code == "address-exhausted"
        for number in (5, 2):
            records.delete_endpoint(connection, f"c{number}")
        assert take(connection, "a").address == given[2], "round the subnet"
        assert take(connection, "b").address == given[5]
        records.delete_endpoint(connection, "b")
        records.delete_endpoint(connection, "c8")
        assert take(connection, "c").address == given[8], "not the one that was given back just now"


def test_leases_survive_a_reboot_and_the_round_goes_on_where_it_was(tmp_path: Path) -> None:
    for round in range(2):
        database = Database(tmp_path / "stead.db", (NET_SCHEMA,))
        with database.write() as connection:
            if round == 0:
                records.write_network(connection, network())
                take(connection, "a")
                take(connection, "b")
                records.delete_endpoint(connection, "b")
            else:
                assert records.read_leases(connection, container="a")[0].address == "10.1.0.2"
                assert take(connection, "c").address == "10.1.0.4"
        database.close()


def test_a_lease_that_fails_leaves_nothing(database: Database) -> None:
    with database.write() as connection:
        records.write_network(connection, network())
    with pytest.raises(Fault, match="there is no network"), database.write() as connection:
        leases.reserve(connection, "a", "p/a", [Attachment("p/n"), Attachment("p/none")])
    assert records.read_leases(database.read()) == []
    assert records.read_endpoints(database.read()) == {}


def test_only_the_range_is_given_out_and_nothing_that_is_reserved(database: Database) -> None:
    options = NetworkOptions(
        ip_range="10.1.0.16/30", ip_range6="fd00::10/126", reserved=("10.1.0.17", "fd00::11")
    )
    with database.write() as connection:
        of_ipv6 = {"subnet6": "fd00::/64", "gateway6": "fd00::1"}
        records.write_network(connection, network(options=options, **of_ipv6))
        got = [take(connection, name) for name in "abc"]
        assert [lease.address for lease in got] == ["10.1.0.16", "10.1.0.18", "10.1.0.19"]
        assert [lease.address6 for lease in got] == ["fd00::10", "fd00::12", "fd00::13"]
        with pytest.raises(Fault, match=r"\(10.1.0.16/30\) has no free address"):
            take(connection, "d")
        assert take(connection, "e", ipv4_address="10.1.9.9", ipv6_address="fd00::99").address == "10.1.9.9"


def test_two_containers_cannot_have_interfaces_of_one_name(database: Database) -> None:
    with database.write() as connection:
        records.write_network(connection, network())
        records.write_network(connection, network("p/m", "10.2.0.0/24"))
        asked = [Attachment("p/n"), Attachment("p/m", interface_name="eth0")]
        with pytest.raises(Fault, match="eth0 is its interface on network p/n already"):
            leases.reserve(connection, "a", "p/a", asked)


def test_addresses_move_between_networks_of_a_container_in_one_step(database: Database) -> None:
    """Two that swap what was asked for: each is given up before it is taken."""
    with database.write() as connection:
        records.write_network(connection, network())
        records.write_network(connection, network("p/m", "10.2.0.0/24"))
        before = [
            Attachment("p/n", (), "10.1.0.9", "02:00:00:00:00:01"),
            Attachment("p/m", interface_name="b"),
        ]
        leases.reserve(connection, "a", "p/a", before)
        after = [Attachment("p/n", interface_name="b"), Attachment("p/m", ("x",), interface_name="c")]
        gone = leases.settle(connection, "a", "p/a", before, after)
        assert {lease.network for lease in gone} == {"p/n", "p/m"}, "both interfaces are called otherwise"
        held = {lease.network: lease for lease in records.read_leases(connection, container="a")}
        assert held["p/n"].address == "10.1.0.9" and held["p/n"].inside == "b"
        assert held["p/m"].aliases == ("x",) and held["p/m"].inside == "c"
        assert leases.settle(connection, "a", "p/a", after, after) == []
