"""What /etc/hosts and /etc/resolv.conf of a container say."""

from __future__ import annotations

from pathlib import Path

from runtime.net import names, resolvconf


def test_a_hosts_file_names_the_container_and_what_was_asked_for() -> None:
    extra = (("gw", "host-gateway"), ("legacy", "192.0.2.9"))
    text = names.hosts_text("web", "example.org", ["10.88.0.2"], extra, ["10.88.0.1"])
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert "10.88.0.2\tweb.example.org web" in lines
    assert "10.88.0.1\tgw" in lines and "192.0.2.9\tlegacy" in lines


def test_without_a_network_the_container_still_knows_its_name() -> None:
    assert "127.0.1.1\tweb\n" in names.hosts_text("web", "", [], (), ())


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
    spec = (("10.0.0.1",), ("a.test",), ("ndots:1",))
    assert not resolvconf.is_stale(resolvconf.resolv_text(UPLINK, *spec), "")


def test_the_name_server_is_asked_for_the_hosts_servers_and_for_those_of_the_spec() -> None:
    text = resolvconf.resolv_text(UPLINK, (), (), (), via="10.88.0.1")
    assert text.splitlines()[1:] == ["nameserver 10.88.0.1", "search lan", "options ndots:0"]
    asked = resolvconf.resolv_text(UPLINK, ("192.0.2.9",), (), ("ndots:2",), via="10.88.0.1")
    assert asked.splitlines()[1:] == ["nameserver 10.88.0.1", "search lan", "options ndots:2"]


def test_a_server_on_the_containers_own_loopback_is_asked_by_the_container_itself() -> None:
    text = resolvconf.resolv_text(UPLINK, ("127.0.0.1",), (), (), via="10.88.0.1")
    assert resolvconf.servers(text) == ["127.0.0.1"] and "ndots" not in text


def test_a_file_is_stale_when_it_asks_another_server_than_it_should() -> None:
    direct = resolvconf.resolv_text(UPLINK, (), (), ())
    via = resolvconf.resolv_text(UPLINK, (), (), (), via="10.88.0.1")
    assert resolvconf.is_stale(direct, UPLINK, "10.88.0.1") and resolvconf.is_stale(via, UPLINK)
    assert not resolvconf.is_stale(via, UPLINK, "10.88.0.1")


def test_peers_are_put_in_replaced_and_taken_out_and_other_lines_stay() -> None:
    own = "127.0.0.1\tlocalhost\n192.0.2.7\tmine"
    one = names.with_peers(own, {"10.88.0.3": ("db", "db.shop")})
    assert one == f"{own}\n{names.BEGIN}\n10.88.0.3\tdb db.shop\n{names.END}\n"
    two = names.with_peers(one + "192.0.2.8\tlater\n", {"10.88.0.4": ("web",)})
    assert "db" not in two and "10.88.0.4\tweb\n" in two and two.endswith("192.0.2.8\tlater\n")
    assert names.peers_of(two) == f"{names.BEGIN}\n10.88.0.4\tweb\n{names.END}\n"
    assert names.with_peers(two, {}) == f"{own}\n192.0.2.8\tlater\n" and names.peers_of(own) == ""


def test_the_block_of_an_older_release_goes_to_the_end_of_the_file() -> None:
    assert names.with_peers(f"127.0.0.1\tlocalhost\n{names.BEGIN}\n10.88.0.3\tdb\n", {}) == (
        "127.0.0.1\tlocalhost\n"
    )


def test_host_gateway_is_the_hosts_address_of_each_family() -> None:
    extra = (("gw", "host-gateway"),)
    text = names.hosts_text("web", "", ["10.88.0.2", "fd00::2"], extra, ["10.88.0.1", "fd00::1"])
    assert "10.88.0.2\tweb\nfd00::2\tweb\n10.88.0.1\tgw\nfd00::1\tgw\n" in text
    assert "gw" not in names.hosts_text("web", "", ["10.88.0.2", ""], extra, ["", ""])


def test_files_of_containers_with_servers_of_their_own_follow_the_hosts_domains() -> None:
    text = resolvconf.resolv_text("search a.test\n", ("127.0.0.1",), (), ())
    assert "search a.test\n" in text and resolvconf.is_stale(text, "search b.test\n")
    whole = resolvconf.resolv_text("search a.test\n", ("127.0.0.1",), ("c.test",), ("ndots:1",))
    assert not resolvconf.is_stale(whole, "search b.test\n")
