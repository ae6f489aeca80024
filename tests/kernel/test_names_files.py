"""Files of containers that run follow the host and their peers by the name server alone: no agent is here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.net import hearing
from runtime.paths import write_atomically
from runtime.wishes import ContainerRequest, NetworkOptions
from specs.values import ImageRef
from tests.kernel.names_box import until
from tests.kernel.net_box import MARKS, Machine, Node, on_own_host, sh

pytestmark = MARKS

IMAGE = ImageRef.parse("busybox")


@contextlib.contextmanager
def own_etc() -> Iterator[Path]:
    """A directory /etc that is this mount namespace's own, so that /etc/resolv.conf can be replaced in every
    way. Before the name server starts, which has our mount namespace."""
    sh("mount", "--make-rprivate", "/")
    kept = Path(os.environ.get("TMPDIR", "/tmp")) / f"etc.{os.getpid()}"
    kept.mkdir()
    try:
        sh("mount", "-t", "tmpfs", "tmpfs", str(kept))
        for name in ("passwd", "group", "ld.so.cache", "alternatives", "localtime"):
            if Path("/etc", name).exists():
                sh("cp", "-a", f"/etc/{name}", str(kept))
        sh("mount", "--move", str(kept), "/etc")
        yield Path("/etc")
    finally:
        kept.rmdir()


class Shop:
    """Containers that are namespaces only, with files as the runtime writes them."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def container(self, name: str, network: str = "shop/net", **fields: Any) -> str:
        id = self.node.container(name, network)
        request = ContainerRequest(name, "test", "", "", "", IMAGE, **fields)
        self.home(id).mkdir(parents=True)
        self.node.fabric.write_files(id, request, self.home(id))
        self.state(id, "running")
        return id

    def on_host(self, name: str) -> str:
        id = name.encode().hex().ljust(32, "0")
        self.node.paths.live(id).mkdir()
        self.home(id).mkdir(parents=True)
        request = ContainerRequest(name, "test", "", "", "", IMAGE, network_mode="host")
        self.node.fabric.write_files(id, request, self.home(id))
        return id

    def state(self, id: str, phase: str) -> None:
        text = json.dumps({"v": 1, "phase": phase, "health": "none"})
        write_atomically(self.node.paths.live(id) / "state.json", text.encode(), durable=False)

    def home(self, id: str) -> Path:
        return self.node.paths.container(id)

    def resolv(self, id: str) -> str:
        return (self.home(id) / "resolv.conf").read_text()

    def hosts(self, id: str) -> dict[str, list[str]]:
        """Names by address, without those that every file has."""
        lines = [line.split() for line in (self.home(id) / "hosts").read_text().splitlines()]
        return {words[0]: words[1:] for words in lines if words[0] != "#" and "localhost" not in words[1]}


@contextlib.contextmanager
def shop() -> Iterator[Shop]:
    with Machine() as machine:
        node = machine.fabric(names=True)
        node.network("shop/net")
        yield Shop(node)


def rewritten(etc: Path, text: str) -> None:
    (etc / "resolv.conf").write_text(text)


def renamed_over(etc: Path, text: str) -> None:
    (etc / "resolv.conf.new").write_text(text)
    (etc / "resolv.conf.new").rename(etc / "resolv.conf")


def linked(etc: Path, text: str) -> None:
    """As resolvconf(8) and NetworkManager have it: a link, first to nothing, into a directory that comes."""
    (etc / "link").symlink_to("state/dns/resolv.conf")
    (etc / "link").rename(etc / "resolv.conf")
    (etc / "state" / "dns").mkdir(parents=True)
    (etc / "state" / "dns" / "resolv.conf").write_text(text)


def renamed_behind_the_link(etc: Path, text: str) -> None:
    renamed_over(etc / "state" / "dns", text)


def switched_on_the_way(etc: Path, text: str) -> None:
    """One of the directories is a link, which is switched."""
    (etc / "other").mkdir()
    (etc / "other" / "resolv.conf").write_text(text)
    (etc / "state" / "link").symlink_to("../other")
    (etc / "state" / "dns").rename(etc / "state" / "old")
    (etc / "state" / "link").rename(etc / "state" / "dns")


def removed_and_made(etc: Path, text: str) -> None:
    (etc / "other" / "resolv.conf").unlink()
    (etc / "other" / "resolv.conf").write_text(text)


FORMS: list[Callable[[Path, str], None]] = [
    rewritten,
    renamed_over,
    linked,
    renamed_behind_the_link,
    switched_on_the_way,
    removed_and_made,
]


@on_own_host
def test_a_change_of_the_hosts_resolv_conf_reaches_containers_however_it_is_made() -> None:
    with own_etc() as etc, shop() as made:
        rewritten(etc, "nameserver 192.0.2.1\nsearch first.test\n")
        web = made.container("shop/web")
        own = made.container("shop/own", dns_search=("own.test",))
        host = made.on_host("shop/host")
        files = [made.home(id) / "resolv.conf" for id in (web, own, host)]
        inodes = [path.stat().st_ino for path in files]
        gateway = made.node.fabric.networks()[0].gateway
        for number, form in enumerate(FORMS):
            form(etc, f"nameserver 192.0.2.{number}\nsearch d{number}.test\noptions ndots:{number}\n")
            until(lambda number=number: f"search d{number}.test\n" in made.resolv(web))
            assert f"nameserver {gateway}\n" in made.resolv(web)
            until(lambda number=number: f"options ndots:{number}\n" in made.resolv(own))
            assert "search own.test\n" in made.resolv(own)
            until(lambda number=number: f"nameserver 192.0.2.{number}\n" in made.resolv(host))
            assert made.node.defects() == set()
        assert [path.stat().st_ino for path in files] == inodes


@on_own_host
def test_what_a_program_wrote_into_its_own_file_stays() -> None:
    with own_etc() as etc, shop() as made:
        rewritten(etc, "nameserver 192.0.2.1\n")
        web, other = made.container("shop/web"), made.container("shop/other")
        (made.home(web) / "resolv.conf").write_text("nameserver 192.0.2.99\n")
        (made.home(other) / "hosts").write_text("192.0.2.7\tmine\n")
        rewritten(etc, "nameserver 192.0.2.2\nsearch new.test\n")
        until(lambda: "search new.test" in made.resolv(other))
        assert made.resolv(web) == "nameserver 192.0.2.99\n"
        assert (made.home(other) / "hosts").read_text() == "192.0.2.7\tmine\n"


@on_own_host
def test_peers_are_in_hosts_files_while_port_53_is_somebody_elses_and_only_then() -> None:
    with own_etc() as etc, shop() as made:
        rewritten(etc, "nameserver 192.0.2.1\n")
        node = made.node
        gateway = node.fabric.networks()[0].gateway
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind((gateway, 53))
            web = made.container("shop/web")
            path = made.home(web) / "hosts"
            inode = path.stat().st_ino
            assert "nameserver 192.0.2.1\n" in made.resolv(web)
            path.write_text(path.read_text() + "192.0.2.7\tmine\n")
            db = made.container("shop/db", hostname="store")
            until(lambda: node.address(db) in made.hosts(web))
            assert {"db", "db.shop", db[:12], "store"} <= set(made.hosts(web)[node.address(db)])
            until(lambda: node.address(web) in made.hosts(db))
            assert made.hosts(web)[node.address(web)] == ["web"]  # itself: as ever
            made.state(db, "backoff")
            until(lambda: node.address(db) not in made.hosts(web))
            made.state(db, "running")
            until(lambda: node.address(db) in made.hosts(web))
            rewritten(etc, "nameserver 192.0.2.2\n")
            until(lambda: "nameserver 192.0.2.2\n" in made.resolv(web))
        until(lambda: f"nameserver {gateway}\n" in made.resolv(web))
        until(lambda: node.address(db) not in made.hosts(web))
        assert made.hosts(web)["192.0.2.7"] == ["mine"] and path.stat().st_ino == inode
        until(lambda: node.defects() == set())


@on_own_host
def test_a_container_that_asks_a_server_of_its_own_loopback_has_its_peers_in_its_hosts_file() -> None:
    with own_etc() as etc, shop() as made:
        rewritten(etc, "nameserver 192.0.2.1\n")
        web, alone = made.container("shop/web"), made.container("shop/alone", dns=("127.0.0.1",))
        until(lambda: made.node.address(web) in made.hosts(alone))
        assert made.node.address(alone) not in made.hosts(web)
        assert made.node.defects() == set()
        shutil.rmtree(made.node.paths.live(web), ignore_errors=True)
        until(lambda: made.node.address(web) not in made.hosts(alone))


@on_own_host
def test_a_repair_of_files_keeps_the_peers_that_the_name_server_wrote() -> None:
    with own_etc() as etc, shop() as made:
        rewritten(etc, "nameserver 192.0.2.1\n")
        web, alone = made.container("shop/web"), made.container("shop/alone", dns=("127.0.0.1",))
        until(lambda: made.node.address(web) in made.hosts(alone))
        request = ContainerRequest("shop/alone", "test", "", "", "", IMAGE, dns=("127.0.0.1",))
        made.node.fabric.write_files(alone, request, made.home(alone))
        assert made.node.address(web) in made.hosts(alone)


@on_own_host
def test_a_firewall_that_drops_what_containers_ask_is_a_defect_until_it_lets_them() -> None:
    with own_etc() as etc, shop() as made, pytest.MonkeyPatch.context() as patch:
        rewritten(etc, "nameserver 192.0.2.1\n")
        patch.setattr(hearing, "TIMEOUT", 0.1)
        patch.setattr(hearing, "PAUSE", 0.0)
        made.container("shop/web")
        sh("nft", "add table inet filter")
        sh("nft", "add chain inet filter in { type filter hook input priority 0; policy drop; }")
        (network,) = until(lambda: [item for item in made.node.fabric.observe().networks if item.defects])
        (defect,) = network.defects
        assert defect.kind == "names"
        command = defect.text.partition("let them ask: ")[2]
        sh("nft", command.removeprefix("nft ").replace("'st*'", '"st*"'))
        assert made.node.defects() == set()


@on_own_host
def test_containers_on_a_lan_only_have_their_peers_in_hosts_files_and_ask_the_hosts_servers() -> None:
    with own_etc() as etc, shop() as made:
        rewritten(etc, "nameserver 192.0.2.1\n")
        lan = NetworkOptions("macvlan", "up0", ip_range="198.51.100.64/28")
        made.node.network("shop/lan", subnet="198.51.100.0/24", gateway="198.51.100.2", options=lan)
        one, two = (made.container(f"shop/{name}", "shop/lan") for name in ("one", "two"))
        assert "nameserver 192.0.2.1\n" in made.resolv(one)
        until(lambda: made.node.address(two) in made.hosts(one))
        until(lambda: made.node.address(one) in made.hosts(two))
        made.node.network("shop/other")
        third, other = made.container("shop/three", "shop/lan"), made.container("shop/four", "shop/other")
        until(lambda: made.node.address(third) in made.hosts(one))
        assert made.node.address(other) not in made.hosts(one)
        assert made.node.address(one) not in made.hosts(other)
        assert made.node.defects() == set()


@on_own_host
def test_files_do_not_change_while_a_bridge_is_gone() -> None:
    with own_etc() as etc, shop() as made:
        rewritten(etc, "nameserver 192.0.2.1\n")
        web = made.container("shop/web")
        made.container("shop/db")
        before = made.resolv(web), made.hosts(web)
        (record,) = made.node.fabric.networks()
        sh("ip", "link", "delete", record.bridge)
        service = made.node.service
        assert service is not None
        until(lambda: record.gateway not in getattr(service.state(), "listening", ()))
        rewritten(etc, "nameserver 192.0.2.1\nsearch later.test\n")
        until(lambda: "search later.test" in made.resolv(web))
        assert (made.resolv(web).splitlines()[1], made.hosts(web)) == (before[0].splitlines()[1], before[1])


@on_own_host
def test_a_repair_lets_containers_ask_through_input_of_iptables() -> None:
    with own_etc() as etc, shop() as made, pytest.MonkeyPatch.context() as patch:
        rewritten(etc, "nameserver 192.0.2.1\n")
        patch.setattr(hearing, "TIMEOUT", 0.1)
        patch.setattr(hearing, "PAUSE", 0.0)
        made.container("shop/web")
        sh("nft", "add table ip filter")
        for name in ("INPUT", "FORWARD"):
            hook = f"{{ type filter hook {name.lower()} priority 0; policy drop; }}"
            sh("nft", f"add chain ip filter {name} {hook}")
        assert made.node.defects() == {"names", "forwarding"}
        made.node.fabric.repair_network("shop/net")
        assert made.node.defects() == {"forwarding"}, "a rule for questions lets nothing else pass"
        made.node.fabric.publish(force=True)
        assert made.node.defects() == set()
        listing = sh("nft", "list", "chain", "ip", "filter", "INPUT")
        assert listing.count("dport 53") == 2
