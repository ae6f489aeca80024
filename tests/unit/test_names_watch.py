"""What the name server is woken by, and what it only reads when somebody asks."""

from __future__ import annotations

import select
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from runtime.net.dns import documents
from runtime.net.dns.watch import Watch
from runtime.net.dns.zone import Endpoint, Member, Network
from runtime.paths import write_atomically

NETWORK = Network("n", ("10.0.0.1",), (ip_network("10.0.0.0/24"),), False, "br0")
ID = "0123456789abcdef"


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    (tmp_path / documents.DIRECTORY).mkdir()
    (tmp_path / "containers").mkdir()
    networks(tmp_path, NETWORK)
    made = Watch(str(tmp_path))
    yield made
    made.close()


def networks(run: Path, *items: Network) -> None:
    path = run / documents.DIRECTORY / documents.NETWORKS
    write_atomically(path, documents.encode_networks(items), durable=False)


def start(run: Path, phase: str = "running") -> None:
    live = run / "containers" / ID
    live.mkdir(exist_ok=True)
    member = Member(ID, "shop/web", (Endpoint("n", ("10.0.0.2",), ()),), "", ())
    write_atomically(live / documents.MEMBER, documents.encode_member(member), durable=False)
    write_atomically(live / documents.STATE, b'{"phase": "%s"}' % phase.encode(), durable=False)


def is_woken(watch: Watch) -> bool:
    return bool(select.select([watch.fd], [], [], 0)[0])


def test_a_container_wakes_nobody_and_is_known_to_who_asks(watch: Watch, tmp_path: Path) -> None:
    start(tmp_path)
    assert not is_woken(watch)
    assert len(watch.zone) == 0
    assert watch.drain()
    assert len(watch.zone) == 1
    start(tmp_path, "stopped")
    assert not is_woken(watch)
    assert watch.drain()
    assert not watch.drain()


def test_a_network_wakes(watch: Watch, tmp_path: Path) -> None:
    networks(tmp_path, NETWORK, Network("m", ("10.1.0.1",), (ip_network("10.1.0.0/24"),), False, "br1"))
    assert is_woken(watch)
    assert watch.drain()
    assert set(watch.zone.networks) == {"n", "m"}
    assert not is_woken(watch)


def test_the_end_of_the_last_network_wakes(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / documents.DIRECTORY / documents.NETWORKS).unlink()
    assert is_woken(watch)
    assert watch.drain()
    assert watch.gone


def test_a_container_of_before_a_network_changed_is_still_known(watch: Watch, tmp_path: Path) -> None:
    start(tmp_path)
    networks(tmp_path, NETWORK, Network("m", ("10.1.0.1",), (ip_network("10.1.0.0/24"),), False, "br1"))
    assert watch.drain()
    assert len(watch.zone) == 1
