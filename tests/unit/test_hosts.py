"""What /etc/hosts and /etc/resolv.conf of a container say."""

from __future__ import annotations

from pathlib import Path

from runtime.net import names, resolvconf
from runtime.net.names import Peer

DB = Peer("0123456789abcdef", "shop/db", "10.88.0.3", ("database", "db"))
WEB = Peer("fedcba9876543210", "shop/web", "10.88.0.2")


def test_a_hosts_file_names_itself_its_peers_and_what_was_asked_for() -> None:
    extra = (("gw", "host-gateway"), ("legacy", "192.0.2.9"))
    text = names.hosts_text("web", "example.org", ["10.88.0.2"], [WEB, DB], extra, "10.88.0.1")
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert "10.88.0.2\tweb.example.org web" in lines
    assert "10.88.0.1\tgw" in lines and "192.0.2.9\tlegacy" in lines
    assert lines[lines.index(names.BEGIN) :] == [
        names.BEGIN,
        "10.88.0.3\tdb database 0123456789ab",
        "10.88.0.2\tweb fedcba987654",
        names.END,
    ]


def test_without_a_network_the_container_still_knows_its_name() -> None:
    assert "127.0.1.1\tweb\n" in names.hosts_text("web", "", [], [], (), "")


def test_peers_are_replaced_and_other_lines_kept() -> None:
    text = names.hosts_text("web", "", ["10.88.0.2"], [WEB], (), "") + "192.0.2.7\tmine\n"
    changed = names.replace_block(text, names.peers_block([WEB, DB]))
    assert "10.88.0.3\tdb" in changed and changed.endswith("192.0.2.7\tmine\n")
    assert names.replace_block(changed, names.peers_block([WEB])) == text


def test_a_file_without_marks_gets_them_at_its_end() -> None:
    assert names.replace_block("127.0.0.1\tx", "BLOCK\n") == "127.0.0.1\tx\nBLOCK\n"


def test_writing_in_place_keeps_the_inode_and_shortens(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    assert names.write_in_place(path, "a long line\n")
    inode = path.stat().st_ino
    assert names.write_in_place(path, "short\n")
    assert not names.write_in_place(path, "short\n")
    assert path.read_text() == "short\n" and path.stat().st_ino == inode
    assert path.stat().st_mode & 0o777 == 0o644


STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
UPLINK = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch lan\n"


def test_the_stub_of_systemd_resolved_is_replaced_by_its_servers() -> None:
    base = resolvconf.choose(STUB, UPLINK)
    assert base == UPLINK
    lines = resolvconf.resolv_text(base, (), (), ()).splitlines()[1:]
    assert lines == ["nameserver 192.0.2.1", "nameserver 192.0.2.2", "search lan"]


def test_servers_on_loopback_are_left_out() -> None:
    base = "nameserver 127.0.0.1\nnameserver 192.0.2.1\n"
    assert resolvconf.choose(base, UPLINK) == base
    assert resolvconf.servers(resolvconf.resolv_text(base, (), (), ())) == ["192.0.2.1"]


def test_no_server_left_is_said_in_the_file() -> None:
    text = resolvconf.resolv_text(resolvconf.choose(STUB, ""), (), (), ())
    assert resolvconf.servers(text) == [] and "# no nameserver" in text
    assert "options edns0\n" in text and "search lan\n" in text


def test_what_is_asked_for_overrides_the_host() -> None:
    text = resolvconf.resolv_text(UPLINK, ("10.0.0.1",), ("a.example", "b.example"), ("ndots:2",))
    assert text.splitlines()[1:] == ["nameserver 10.0.0.1", "search a.example b.example", "options ndots:2"]
    assert "search" not in resolvconf.resolv_text(UPLINK, (), (".",), ())


def test_a_file_is_stale_when_the_host_changed_and_nobody_else_wrote_it() -> None:
    text = resolvconf.resolv_text(UPLINK, (), (), ())
    assert not resolvconf.is_stale(text, UPLINK)
    assert resolvconf.is_stale(text, UPLINK + "options ndots:1\n")
    assert not resolvconf.is_stale("nameserver 192.0.2.9\n", UPLINK)
    assert not resolvconf.is_stale(resolvconf.resolv_text(UPLINK, ("10.0.0.1",), (), ()), "")
