"""Names of peers as a shim finds them for its probes."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from runtime.net.dns import documents
from runtime.net.dns.zone import Endpoint, Member
from runtime.shim.peers import NAMES, Hosts, find

WEB, DB, STRANGER = "a" * 32, "b" * 32, "c" * 32


def live(directory: Path, id: str, name: str, network: str, address: str, *aliases: str) -> str:
    """A container's live directory, with its names as the name server is told them."""
    assert ip_network(address)
    made = directory / id
    made.mkdir()
    member = Member(id, name, (Endpoint(network, (address,), aliases),))
    (made / NAMES).write_bytes(documents.encode_member(member))
    return str(made)


def test_peers_are_found_by_name_alias_and_short_id_on_common_networks_only(tmp_path: Path) -> None:
    web = live(tmp_path, WEB, "shop/web", "shop/back", "10.88.0.2")
    live(tmp_path, DB, "shop/db", "shop/back", "10.88.0.3", "database")
    live(tmp_path, STRANGER, "shop/other", "shop/front", "10.88.1.3", "far")
    assert [find(web, name) for name in ("db", "database", DB[:12], "web")] == ["10.88.0.3"] * 3 + [
        "10.88.0.2"
    ]
    assert [find(web, name) for name in ("other", "far", "nobody", "")] == [""] * 4
    hosts = Hosts({"db": "192.0.2.1"}, web)
    assert (hosts.get("db", "x"), hosts.get("database", "x"), hosts.get("nobody", "x")) == (
        "192.0.2.1",
        "10.88.0.3",
        "x",
    )


def test_what_cannot_be_read_names_nobody(tmp_path: Path) -> None:
    web = live(tmp_path, WEB, "shop/web", "shop/back", "10.88.0.2")
    live(tmp_path, DB, "shop/db", "shop/back", "10.88.0.3")
    (tmp_path / DB / NAMES).write_text("{")
    assert find(web, "db") == ""
    assert find(str(tmp_path / STRANGER), "db") == ""
