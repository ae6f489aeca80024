"""What networks promise beside the plain ways: bridge netfilter, other tables, leases, files. Each on a host
of its own (net_box)."""

from __future__ import annotations

import re
import secrets
import socket

import pytest
from pyroute2 import IPRoute

from runtime.faults import Fault
from runtime.linux import namespaces
from runtime.net import flows, links, ways
from runtime.wishes import Attachment, ContainerRequest
from specs.values import ImageRef, PortBinding
from tests.kernel.net_box import (
    HOST,
    MARKS,
    OUTSIDE,
    UDP,
    Machine,
    ask,
    comes_to_answer,
    on_own_host,
    serve,
    sh,
)

pytestmark = MARKS

IMAGE = ImageRef.parse("busybox")
NODAD = 0x02  # linux/if_addr.h


@on_own_host
def test_a_container_reaches_itself_through_its_port_with_and_without_bridge_netfilter() -> None:
    with Machine() as machine:
        node = machine.fabric()
        switch = "bridge/bridge-nf-call-iptables"  # there with the module br_netfilter only
        has_module = bool(links.read_sysctl(switch))
        links.write_sysctl(switch, "0", optional=True)
        node.network("p/net")
        ports = (PortBinding("", 8080, 80), PortBinding("", 5353, 53, "udp"))
        web, peer = node.container("p/web", "p/net", ports=ports), node.container("p/peer", "p/net")
        serve(node.netns[web], 80)
        serve(node.netns[web], 53, UDP)

        def check() -> None:
            assert node.defects() == set()
            for address in (HOST, node.fabric.networks()[0].gateway):
                assert comes_to_answer(node.netns[web], address, 8080) is not None
                assert ask(node.netns[web], address, 5353, UDP) is not None
                assert ask(node.netns[peer], address, 8080) is not None

        check()
        if has_module:
            links.write_sysctl(switch, "1")
            assert node.defects() == {"link"}, "the bridge drops what leaves by the port it came in by"
            for id in (web, peer):
                node.fabric.attach(id, node.netns[id])
            check()


@on_own_host
def test_published_ports_of_an_internal_network_and_its_island() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/closed", internal=True)
        node.network("p/open")
        shut = node.container("p/shut", "p/closed", ports=(PortBinding("", 8080, 80),))
        near, free = node.container("p/near", "p/closed"), node.container("p/free", "p/open")
        web = node.container("p/web", "p/open", ports=(PortBinding("", 8081, 80),))
        for id in (shut, free, web):
            serve(node.netns[id], 80)
        gateway = next(net.gateway for net in node.fabric.networks() if net.name == "p/closed")
        assert ask(node.netns[near], node.address(shut), 80) == node.address(near)
        assert ask(None, "127.0.0.1", 8080) is not None, "the host itself is near"
        assert ask(machine.outside, HOST, 8080) is None
        assert ask(node.netns[free], node.address(shut), 80) is None
        with namespaces.in_netns(node.netns[near]):
            sh("ip", "route", "add", "default", "via", gateway)
        for address, port in ((node.address(free), 80), (gateway, 8081), (HOST, 8081)):
            assert ask(node.netns[near], address, port) is None, "an internal network has no way out"


@on_own_host
def test_rules_of_others_are_left_alone_and_theirs_leave_ours_alone() -> None:
    with Machine() as machine:
        sh("nft", "add table ip theirs; add chain ip theirs nat "
           "{ type nat hook prerouting priority -100; policy accept; }; "
           "add rule ip theirs nat tcp dport 1 accept; add table inet wall; "
           "add chain inet wall input { type filter hook input priority 0; policy drop; }; "
           "add rule inet wall input ct state established,related accept")  # fmt: skip
        before = sh("nft", "list", "ruleset")
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))
        serve(node.netns[web], 80)
        assert node.defects() == set()
        assert ask(machine.outside, HOST, 8080) == OUTSIDE, "their input chain is not on a port's way"
        node.fabric.publish(force=True)
        node.fabric.deactivate(web)
        node.fabric.detach(web)
        with node.database.write() as connection:
            node.fabric.release(connection, web)
        node.fabric.remove_network("p/net")
        assert sh("nft", "list", "ruleset") == before


@on_own_host
def test_an_address_is_not_reused_at_once_and_a_hardware_address_stays() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net", subnet="10.88.0.0/29")
        seen = []
        for number in range(4):
            id = node.container(f"p/c{number}", "p/net")
            seen.append(node.address(id))
            node.fabric.detach(id)
            with node.database.write() as connection:
                node.fabric.release(connection, id)
        assert seen == [f"10.88.0.{last}" for last in (2, 3, 4, 5)]
        held = [node.container(f"p/h{number}", "p/net") for number in range(5)]
        assert sorted(map(node.address, held)) == [f"10.88.0.{last}" for last in (2, 3, 4, 5, 6)]
        with pytest.raises(Fault) as caught:
            node.container("p/one-too-many", "p/net")
        assert caught.value.code == "address-exhausted"

        def hardware() -> str:
            with namespaces.in_netns(node.netns[held[0]]):
                return sh("ip", "-o", "link", "show", "eth0").partition("link/ether ")[2].split()[0]

        before = hardware()
        node.fabric.detach(held[0])
        node.fabric.attach(held[0], node.netns[held[0]])
        assert hardware() == before and node.defects() == set()
        with pytest.raises(Fault) as caught, node.database.write() as connection:
            given = Attachment("p/net", ipv4_address=node.address(held[1]))
            node.fabric.reserve(connection, "other", "p/other", [given], ())
        assert caught.value.code == "address-taken"


@on_own_host
def test_an_address_that_has_another_hardware_address_now_is_reached_at_once() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net", subnet="10.88.5.0/24")
        peer = node.container("p/peer", "p/net")

        def replaced(mac: str) -> None:
            id = secrets.token_hex(16)
            given = Attachment("p/net", ipv4_address="10.88.5.9", mac_address=mac)
            with node.database.write() as connection:
                node.fabric.reserve(connection, id, "p/x", [given], ())
            node.start(id)
            serve(node.netns[id], 80)
            for asker in (None, node.netns[peer]):
                assert comes_to_answer(asker, "10.88.5.9", 80) is not None, mac
            node.fabric.deactivate(id)
            node.fabric.detach(id)
            with node.database.write() as connection:
                node.fabric.release(connection, id)

        for mac in ("02:00:00:00:00:01", "02:00:00:00:00:02", ""):
            replaced(mac)


@on_own_host
def test_the_route_that_the_kernel_makes_a_moment_after_an_address_is_not_missed() -> None:
    """addrconf_dad_work of the kernel: one in six was not there yet at a look at once."""
    sh("ip", "link", "add", "own0", "up", "type", "bridge")
    index = socket.if_nametoindex("own0")
    own = [ways.Way("own0", f"fd00:88::{number:x}/64") for number in range(1, 301)]
    with IPRoute() as giver:
        for way in own:
            giver.addr("add", index=index, address=str(way.interface.ip), prefixlen=64, flags=NODAD)
            assert ways.lost_by_host([way]) == {}
    lost = own[7]
    sh("ip", "-6", "route", "delete", "local", str(lost.interface.ip), "dev", "own0", "table", "local")
    assert ways.lost_by_host(own) == {"own0": [f"the host's route to {lost.interface.ip} is gone"]}
    ways.mend_host(own)
    assert ways.lost_by_host(own) == {}


@on_own_host
def test_flows_to_the_same_port_elsewhere_are_not_forgotten() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        names = node.container("p/names", "p/net", ports=(PortBinding("", 5353, 53, "udp"),))
        asker = node.container("p/asker", "p/net")
        serve(node.netns[names], 53, UDP)
        serve(machine.outside, 5353, UDP)
        assert comes_to_answer(node.netns[asker], OUTSIDE, 5353, UDP) == HOST
        assert ask(machine.outside, HOST, 5353, UDP) == OUTSIDE
        assert flows.forget_udp({5353: frozenset({node.address(names)})}) == 0
        assert flows.forget_udp({5353: frozenset()}) == 1


@on_own_host
def test_resolv_conf_follows_the_host_and_never_names_its_loopback() -> None:
    with Machine() as machine, pytest.MonkeyPatch.context() as patch:
        host, uplink = machine.directory / "resolv.conf", machine.directory / "uplink"
        patch.setattr("runtime.net.resolvconf.HOST", host)
        patch.setattr("runtime.net.resolvconf.UPLINK", uplink)
        host.write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
        uplink.write_text("nameserver 192.0.2.1\n")
        node = machine.fabric()
        node.network("p/net")
        id, home = node.container("p/web", "p/net"), node.paths.root / "containers"
        own = home / id
        own.mkdir()
        request = ContainerRequest("p/web", "test", "", "", "", IMAGE, hostname="front", domainname="a.test")
        node.fabric.write_files(id, request, own)
        inodes = {name: (own / name).stat().st_ino for name in ("hosts", "hostname", "resolv.conf")}
        assert re.findall("nameserver (.*)", (own / "resolv.conf").read_text()) == ["192.0.2.1"]
        assert f"{node.address(id)}\tfront.a.test front\n" in (own / "hosts").read_text()
        assert (own / "hostname").read_text() == "front\n"
        uplink.write_text("nameserver 192.0.2.2\n")
        assert node.defects() == {"resolv"}
        node.fabric.write_files(id, request, own)
        assert node.defects() == set()
        assert re.findall("nameserver (.*)", (own / "resolv.conf").read_text()) == ["192.0.2.2"]
        assert {name: (own / name).stat().st_ino for name in inodes} == inodes
