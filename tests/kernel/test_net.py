"""Networks on a real kernel, each test on a host of its own (net_box)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.linux import namespaces
from runtime.net import addresses, links
from runtime.wishes import ContainerRequest
from specs.values import ImageRef, PortBinding
from tests.kernel.net_box import (
    HOST,
    MARKS,
    OUTSIDE,
    TCP,
    UDP,
    Machine,
    ask,
    comes_to_answer,
    on_own_host,
    open_socket,
    serve,
    sh,
)

pytestmark = MARKS


@on_own_host
def test_a_published_port_answers_outside_on_loopback_and_in_containers() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/front")
        node.network("p/back")
        ports = (PortBinding("", 8080, 80, "tcp"), PortBinding("", 5353, 53, "udp"))
        web = node.container("p/web", "p/front", ports=ports)
        peer = node.container("p/peer", "p/front")
        other = node.container("p/other", "p/back")
        serve(node.netns[web], 80)
        serve(node.netns[web], 53, UDP)
        gateway = str(addresses.parse_subnet("10.88.0.0/24").network_address + 1)
        for port, kind in ((8080, TCP), (5353, UDP)):
            assert ask(machine.outside, HOST, port, kind) == OUTSIDE, "the client's address is kept"
            assert ask(None, "127.0.0.1", port, kind) == gateway
            assert ask(None, HOST, port, kind) is not None
            assert ask(node.netns[peer], HOST, port, kind) is not None
            assert ask(node.netns[web], HOST, port, kind) is not None, "hairpin to itself"
            assert ask(node.netns[other], HOST, port, kind) == node.address(other)
        assert node.defects() == set()
        node.fabric.deactivate(web)
        node.fabric.publish()
        assert ask(machine.outside, HOST, 8080) is None
        assert node.defects() == set()


@on_own_host
def test_a_port_for_one_address_answers_there_only() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        ports = (PortBinding("127.0.0.1", 8080, 80), PortBinding(HOST, 8081, 80))
        web = node.container("p/web", "p/net", ports=ports)
        serve(node.netns[web], 80)
        assert ask(None, "127.0.0.1", 8080) is not None
        assert ask(machine.outside, HOST, 8080) is None
        assert ask(machine.outside, HOST, 8081) == OUTSIDE
        assert ask(None, HOST, 8081) is not None and ask(node.netns[web], HOST, 8081) is not None
        assert ask(None, "127.0.0.1", 8081) is None
        with pytest.raises(Fault, match=f"{OUTSIDE}, which is no address of this host"):
            node.container("p/thief", "p/net", ports=(PortBinding(OUTSIDE, 80, 80),))
        serve(machine.outside, 80)
        sh("ip", "address", "add", "198.51.100.7/24", "dev", "up0")
        node.container("p/moving", "p/net", ports=(PortBinding("198.51.100.7", 80, 80),))
        sh("ip", "address", "del", "198.51.100.7/24", "dev", "up0")
        with namespaces.in_netns(machine.outside):
            sh("ip", "address", "add", "198.51.100.7/24", "dev", "world0")
        assert ask(None, "198.51.100.7", 80) is not None, "what is not the host's any more is not taken"


@on_own_host
def test_networks_are_islands_and_containers_of_one_network_talk() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/a")
        node.network("p/b")
        one, two = node.container("p/one", "p/a"), node.container("p/two", "p/a")
        three = node.container("p/three", "p/b")
        for id in (one, two, three):
            serve(node.netns[id], 80)
        assert ask(node.netns[one], node.address(two), 80) == node.address(one)
        assert ask(node.netns[two], node.address(one), 80) == node.address(two)
        assert ask(node.netns[one], node.address(three), 80) is None
        assert ask(node.netns[three], node.address(one), 80) is None
        with namespaces.in_netns(machine.outside):
            sh("ip", "route", "add", "10.88.0.0/16", "via", HOST)
        assert ask(machine.outside, node.address(one), 80) is None, "unpublished is unreachable"


@on_own_host
def test_packets_leave_with_the_hosts_address_and_an_internal_network_has_no_way_out() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/open")
        node.network("p/closed", internal=True)
        free, shut = node.container("p/free", "p/open"), node.container("p/shut", "p/closed")
        both = node.container("p/both", "p/closed", "p/open")
        serve(machine.outside, 80)
        assert ask(node.netns[free], OUTSIDE, 80) == HOST
        assert ask(node.netns[both], OUTSIDE, 80) == HOST
        assert ask(node.netns[shut], OUTSIDE, 80) is None
        gateway = next(net.gateway for net in node.fabric.networks() if net.name == "p/closed")
        with namespaces.in_netns(node.netns[shut]):
            sh("ip", "route", "add", "default", "via", gateway)
        assert ask(node.netns[shut], OUTSIDE, 80) is None


@on_own_host
def test_a_container_cannot_reach_the_hosts_loopback() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        id = node.container("p/one", "p/net")
        server = socket.create_server(("127.0.0.1", 9999))
        with server, namespaces.in_netns(node.netns[id]):
            sh("ip", "address", "del", "127.0.0.1/8", "dev", "lo")
            sh("ip", "route", "add", "127.0.0.1", "via", node.fabric.networks()[0].gateway)
            Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
        assert ask(node.netns[id], "127.0.0.1", 9999) is None


@on_own_host
def test_a_flushed_or_edited_table_is_seen_and_mended() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))
        serve(node.netns[web], 80)
        table = addresses.table_name(str(node.paths.root.resolve()))
        rule = ("insert", "rule", "inet", table, "passing", "drop")
        element = ("delete", "element", "inet", table, "published", "{ tcp . 8080 }")
        for damage in (("flush", "ruleset"), ("flush", "table", "inet", table), rule, element):
            assert ask(machine.outside, HOST, 8080) == OUTSIDE
            sh("nft", *damage)
            assert node.defects() == {"firewall"}, damage
            assert ask(machine.outside, HOST, 8080) is None
            node.fabric.publish(force=True)
            assert node.defects() == set()
        sh("nft", "add", "table", "ip", "mine")
        assert node.defects() == set(), "tables of others are theirs"


@on_own_host
def test_a_deleted_bridge_comes_back_with_its_members() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))
        peer = node.container("p/peer", "p/net")
        serve(node.netns[web], 80)
        sh("ip", "link", "delete", node.fabric.networks()[0].bridge)
        assert node.defects() == {"bridge"}
        node.fabric.repair_network("p/net")
        assert node.defects() == set()
        assert comes_to_answer(machine.outside, HOST, 8080) == OUTSIDE
        assert ask(node.netns[peer], node.address(web), 80) == node.address(peer)


@on_own_host
def test_broken_links_and_settings_are_seen_and_mended() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))
        serve(node.netns[web], 80)
        host = addresses.link_name(str(node.paths.root.resolve()), web, "p/net")
        bridge = node.fabric.networks()[0].bridge

        def inside(*command: str) -> None:
            with namespaces.in_netns(node.netns[web]):
                sh(*command)

        damages: list[tuple[str, Callable[[], object]]] = [
            ("link", lambda: sh("ip", "link", "delete", host)),
            ("link", lambda: sh("ip", "link", "set", host, "nomaster")),
            ("link", lambda: sh("ip", "link", "set", host, "down")),
            ("link", lambda: inside("ip", "link", "set", "eth0", "down")),
            ("link", lambda: inside("ip", "link", "delete", "eth0")),
            ("address", lambda: inside("ip", "address", "flush", "dev", "eth0")),
        ]
        for kind, damage in damages:
            damage()
            assert node.defects() == {kind}
            node.fabric.attach(web, node.netns[web])
            assert node.defects() == set()
            assert comes_to_answer(machine.outside, HOST, 8080) == OUTSIDE
        localnet = f"ipv4/conf/{bridge}/route_localnet"
        for break_it in (
            lambda: sh("ip", "link", "set", bridge, "down"),
            lambda: links.write_sysctl(localnet, "0"),
            lambda: sh("ip", "address", "flush", "dev", bridge),
            lambda: sh("ip", "link", "set", bridge, "mtu", "1400"),
        ):
            break_it()
            assert node.defects() == {"bridge"}
            node.fabric.repair_network("p/net")
            assert node.defects() == set()
        assert comes_to_answer(None, "127.0.0.1", 8080) is not None
        links.write_sysctl("ipv4/ip_forward", "0")
        assert node.defects() == {"forwarding"}
        node.fabric.publish(force=True)
        assert node.defects() == set()
        assert comes_to_answer(machine.outside, HOST, 8080) == OUTSIDE


@on_own_host
def test_two_roots_side_by_side_do_not_meet() -> None:
    with Machine() as machine:
        one, two = machine.fabric("one"), machine.fabric("two")
        for node in (one, two):
            node.network("p/net")
        assert one.fabric.networks()[0].subnet != two.fabric.networks()[0].subnet
        a = one.container("p/a", "p/net", ports=(PortBinding("", 8080, 80),))
        b = two.container("p/b", "p/net", ports=(PortBinding("", 8081, 80),))
        serve(one.netns[a], 80)
        serve(two.netns[b], 80)
        assert ask(machine.outside, HOST, 8080) == ask(machine.outside, HOST, 8081) == OUTSIDE
        assert ask(one.netns[a], two.address(b), 80) is None
        assert ask(one.netns[a], HOST, 8081) is not None
        with two.database.write() as connection:
            two.fabric.release(connection, b)
        two.fabric.sweep(())
        two.fabric.remove_network("p/net")
        assert one.defects() == set()
        assert ask(machine.outside, HOST, 8080) == OUTSIDE
        assert two.defects() == set()


@on_own_host
def test_everything_goes_when_the_last_network_goes() -> None:
    with Machine() as machine:
        before = set(links.links())
        node = machine.fabric()
        node.network("p/net")
        id = node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))
        with pytest.raises(Fault) as caught:
            node.fabric.remove_network("p/net")
        assert caught.value.code == "network-in-use"
        node.fabric.deactivate(id)
        node.fabric.publish()
        node.fabric.detach(id)
        with node.database.write() as connection:
            node.fabric.release(connection, id)
        node.fabric.remove_network("p/net")
        node.fabric.remove_network("p/net")
        assert set(links.links()) == before
        assert "stead" not in sh("nft", "list", "tables")


@on_own_host
def test_a_crash_between_link_and_record_is_swept() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        id = node.container("p/web", "p/net")
        removed = node.fabric.sweep(())
        assert any(id in line for line in removed) and any(line.startswith("link stv") for line in removed)
        assert node.fabric.sweep(()) == []
        assert node.defects() == set()


@on_own_host
def test_a_taken_port_is_told_before_the_start() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        node.container("p/a", "p/net", ports=(PortBinding("", 8080, 80),))
        with pytest.raises(Fault, match="container p/a") as caught:
            node.container("p/b", "p/net", ports=(PortBinding("127.0.0.1", 8080, 80),))
        assert caught.value.code == "port-taken"
        with socket.create_server(("127.0.0.1", 9000)), pytest.raises(Fault, match=rf"pid {os.getpid()}"):
            node.container("p/c", "p/net", ports=(PortBinding("", 9000, 80),))
        node.container("p/d", "p/net", ports=(PortBinding("", 9000, 80),))


@on_own_host
def test_a_forward_policy_of_others_that_drops_is_told_with_the_cure() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))
        serve(node.netns[web], 80)
        sh("nft", "add table inet wall; add chain inet wall forward "
           "{ type filter hook forward priority 0; policy drop; }")  # fmt: skip
        assert node.defects() == {"forwarding"}
        assert ask(machine.outside, HOST, 8080) is None
        with pytest.raises(Fault) as caught:
            node.fabric.publish(force=True)
        cure = caught.value.cause.rpartition("let them pass: ")[2]
        sh("sh", "-c", cure)
        assert node.defects() == set()
        assert ask(machine.outside, HOST, 8080) == OUTSIDE


@on_own_host
def test_many_containers_start_at_once() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")

        def start(number: int) -> str:
            return node.container(f"p/c{number}", "p/net", ports=(PortBinding("", 8000 + number, 80),))

        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(start, range(40)))
        assert len({node.address(id) for id in ids}) == 40
        assert node.defects() == set()
        for number, id in enumerate(ids):
            serve(node.netns[id], 80)
            assert ask(machine.outside, HOST, 8000 + number) == OUTSIDE


@on_own_host
def test_a_udp_flow_goes_to_the_new_backend_at_once() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        ports = (PortBinding("", 5353, 53, "udp"),)
        serve(None, 5353, UDP)
        with open_socket(machine.outside, UDP) as client:
            client.connect((HOST, 5353))
            client.send(b"?")
            assert client.recv(100).decode() == OUTSIDE, "no backend yet: the host answers"
            node.fabric._publishing._check = lambda *_: None  # type: ignore[method-assign]
            for name in ("p/old", "p/new"):
                id = node.container(name, "p/net", ports=ports)
                client.send(b"?")
                with pytest.raises(OSError):
                    client.recv(100)
                before = node.fabric.counters()[id]["tx_packets"]
                serve(node.netns[id], 53, UDP)
                client.send(b"?")
                assert client.recv(100).decode() == OUTSIDE
                assert node.fabric.counters()[id]["tx_packets"] > before
                node.fabric.deactivate(id)


@on_own_host
def test_counters_are_the_containers() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        id = node.container("p/one", "p/net")
        before = node.fabric.counters()[id]
        with open_socket(node.netns[id], UDP) as client:
            for _ in range(100):
                client.sendto(b"x" * 1000, (node.fabric.networks()[0].gateway, 9))
        after = node.fabric.counters()[id]
        assert after["tx_bytes"] - before["tx_bytes"] >= 100_000
        assert after["rx_bytes"] - before["rx_bytes"] < 100_000


@on_own_host
def test_files_say_what_the_spec_asks_for_and_keep_their_inodes() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        image = ImageRef.parse("busybox")
        web, home = node.container("p/web", "p/net"), node.paths.root / "containers"
        request = ContainerRequest(
            "p/web", "test", "", "", "", image, extra_hosts=(("host", "host-gateway"),), dns=("192.0.2.53",)
        )
        (home / web).mkdir()
        node.fabric.write_files(web, request, home / web)
        path = home / web / "hosts"
        inode = path.stat().st_ino
        gateway = node.fabric.networks()[0].gateway
        assert f"{gateway}\thost\n" in path.read_text()
        assert "nameserver 192.0.2.53\n" in (home / web / "resolv.conf").read_text()
        assert (home / web / "hostname").read_text() == "web\n"
        path.write_text(path.read_text() + "192.0.2.7\tmine\n")
        node.fabric.write_files(web, request, home / web)
        assert path.stat().st_ino == inode and "mine" not in path.read_text()
        assert node.defects() == set()


@on_own_host
def test_without_nft_the_fault_says_what_to_install() -> None:
    with Machine() as machine, pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.net.nft._PATH", {"PATH": "/nowhere"})
        node = machine.fabric()
        with pytest.raises(Fault, match="install nftables") as caught:
            node.network("p/net")
        assert caught.value.code == "firewall-failed"
