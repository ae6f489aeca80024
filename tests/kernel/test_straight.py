"""Packets of containers for their host go straight to it, past the bridge's hooks; each port has its MAC."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time

import pytest

from runtime.linux import bpf, libc, namespaces
from runtime.net import links, straight
from runtime.net.addresses import packed_mac
from runtime.net.netlink import Netlink
from specs.values import PortBinding
from tests.crash import faults
from tests.kernel.net_box import (
    HOST,
    MARKS,
    UDP,
    Machine,
    Node,
    ask,
    comes_to_answer,
    on_own_host,
    port_of,
    serve,
    sh,
)

pytestmark = MARKS

MAC, OTHER = bytes.fromhex("025d0a580001"), bytes.fromhex("025d0a580101")
REDIRECT, UNSPEC = 7, 0xFFFFFFFF
_TEST_RUN = 10

COUNTERS = """
table bridge watch {
  chain seen {
    type filter hook prerouting priority -300; policy accept;
    ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 ether type ip counter
    ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 ether type ip6 counter
  }
}
"""


def verdict(program: int, frame: bytes) -> int:
    """What the program says of a frame: BPF_PROG_TEST_RUN, bpf(2)."""
    given = ctypes.create_string_buffer(frame, len(frame))
    attributes = ctypes.create_string_buffer(
        struct.pack("=IIIIQQII", program, 0, len(frame), 0, ctypes.addressof(given), 0, 1, 0), 80
    )
    libc.syscall("bpf", _TEST_RUN, attributes, len(attributes), subject="test run")
    return int(struct.unpack_from("=I", attributes, 4)[0])


def test_the_program_takes_what_is_ip_for_the_bridge_and_nothing_else() -> None:
    program = bpf.load(bpf.SCHED_CLS_PROGRAM, straight.code(socket.if_nametoindex("lo"), MAC), "test")
    try:
        rest = bytes(46)
        for kind, taken in (
            (0x0800, True),
            (0x86DD, True),
            (0x0806, False),
            (0x8100, False),
            (0x0008, False),
        ):
            for to in (MAC, OTHER, b"\xff" * 6, MAC[:5] + b"\2", b"\3" + MAC[1:]):
                said = verdict(program, to + OTHER + struct.pack("!H", kind) + rest)
                assert said == (REDIRECT if taken and to == MAC else UNSPEC), (kind, to)
    finally:
        os.close(program)


def seen() -> list[int]:
    """Frames of IPv4 and IPv6 that a hook of the bridge saw since the last time, without those to groups, by
    which neighbours are looked for."""
    listed = sh("nft", "list", "chain", "bridge", "watch", "seen")
    sh("nft", "flush", "chain", "bridge", "watch", "seen")
    rules = [line.strip() for line in COUNTERS.splitlines() if "counter" in line]
    for rule in rules:
        sh("nft", "add", "rule", "bridge", "watch", "seen", *rule.split())
    return [int(line.split("packets ")[1].split()[0]) for line in listed.splitlines() if "packets" in line]


def bridge_of(node: Node) -> str:
    (record,) = node.fabric.networks()
    return record.bridge


@on_own_host
def test_ip_for_the_host_and_beyond_passes_no_hook_of_the_bridge() -> None:
    with Machine() as machine:
        machine.ipv6()
        node = machine.fabric()
        node.network("p/net", ipv6=True)
        web = node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))
        near = node.container("p/near", "p/net")
        for server in (node.netns[web], machine.outside, None):
            serve(server, 80 if server else 81)
        sh("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
        gateway = node.gateway(web)
        for address, port in ((gateway, 81), (HOST, 81), ("198.51.100.2", 80), ("2001:db8::2", 80)):
            assert comes_to_answer(node.netns[near], address, port) is not None, address
        sh("nft", COUNTERS)
        seen()
        assert ask(node.netns[near], gateway, 81) == node.address(near)
        assert ask(node.netns[near], HOST, 81) == node.address(near)
        assert ask(node.netns[near], "198.51.100.2", 80) == HOST
        assert ask(node.netns[near], "2001:db8::2", 80) is not None
        assert ask(node.netns[near], HOST, 8080) is not None, "a neighbour by its published port"
        assert ask(node.netns[web], HOST, 8080) is not None, "itself by it"
        assert ask(None, node.address(web), 80) == gateway
        assert ask(None, node.address6(web), 80) is not None
        assert seen() == [0, 0]
        assert ask(node.netns[near], node.address(web), 80) == node.address(near)
        assert ask(node.netns[near], node.address6(web), 80) == node.address6(near)
        four, six = seen()
        assert four > 3 and six > 3, "neighbours reach each other over the bridge"


@on_own_host
def test_members_of_further_bridges_go_by_the_bridge() -> None:
    links.MEMBERS = 1
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        own, further = node.container("p/1", "p/net"), node.container("p/2", "p/net")
        assert faults.filters_of(port_of(node, own)) == [straight.NAME]
        assert faults.filters_of(port_of(node, further)) == []
        assert faults.fixed_macs_of(port_of(node, further)) == [node.leases(further)["p/net"].mac]
        serve(None, 81)
        gateway = node.gateway(own)
        for id in (own, further):
            assert comes_to_answer(node.netns[id], gateway, 81) == node.address(id)
        assert node.defects() == set()


@on_own_host
def test_what_is_taken_away_is_a_defect_that_the_watch_hears_and_comes_back() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net")
        serve(None, 81)
        gateway, port = node.gateway(web), port_of(node, web)
        mac = node.leases(web)["p/net"].mac
        heard = threading.Event()
        end = node.fabric.watch(heard.set)
        node.fabric.observe()
        for command in (
            f"tc qdisc delete dev {port} clsact",
            f"tc filter delete dev {port} ingress",
            f"bridge fdb delete {mac} dev {port} master",
        ):
            assert node.defects() == set()
            heard.clear()
            sh(*command.split())
            assert heard.wait(10), command  # of this, or of what the last repair did
            deadline = time.monotonic() + 10
            while (found := node.defects()) != {"link"} and time.monotonic() < deadline:
                time.sleep(0.01)
            assert found == {"link"}, command
            assert comes_to_answer(node.netns[web], gateway, 81) == node.address(web), (
                "by the bridge meanwhile"
            )
            heard.clear()
            node.fabric.attach(web, node.netns[web])
            deadline = time.monotonic() + 10  # until the watch has heard that, too
            while node.defects() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert node.defects() == set(), command
            assert faults.filters_of(port) == [straight.NAME] and faults.fixed_macs_of(port) == [mac]
        end()


@on_own_host
def test_a_bridge_that_was_made_anew_gets_its_members_straight_ways() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net")
        serve(None, 81)
        gateway = node.gateway(web)
        before = socket.if_nametoindex(bridge_of(node))
        sh("ip", "link", "delete", bridge_of(node))
        node.fabric.repair_network("p/net")
        assert socket.if_nametoindex(bridge_of(node)) != before
        assert node.defects() == set()
        assert comes_to_answer(node.netns[web], gateway, 81) == node.address(web)


@on_own_host
def test_nobody_gets_what_is_for_another_by_taking_its_mac() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        victim, thief = node.container("p/victim", "p/net"), node.container("p/thief", "p/net")
        serve(node.netns[victim], 80, UDP)
        assert comes_to_answer(None, node.address(victim), 80, UDP)
        mac = node.leases(victim)["p/net"].mac
        with namespaces.in_netns(node.netns[thief]):
            sh("ip", "link", "set", "eth0", "down")
            sh("ip", "link", "set", "eth0", "address", mac)
            sh("ip", "link", "set", "eth0", "up")
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            wire.bind(("eth0", 0))
        node.wait_for_queues(thief)
        frame = b"\xff" * 6 + packed_mac(mac) + b"\x88\xb5" + bytes(46)
        with wire:
            for _ in range(20):
                wire.send(frame)
                assert ask(None, node.address(victim), 80, UDP) is not None
        assert faults.fixed_macs_of(port_of(node, victim)) == [mac]


@on_own_host
def test_the_bridge_forgets_no_member_that_speaks_to_the_host_only() -> None:
    """What it does not know it sends to every port."""
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        web, near = node.container("p/web", "p/net"), node.container("p/near", "p/net")
        serve(node.netns[web], 80, UDP)
        assert comes_to_answer(None, node.address(web), 80, UDP)
        sh("ip", "link", "set", bridge_of(node), "type", "bridge", "ageing_time", "100")  # 1 s, else 300

        def received() -> int:
            return links.links(stats=True)[port_of(node, near)].stats[1]

        begin, until = received(), time.monotonic() + 2.5
        asked = 0
        while time.monotonic() < until:
            assert ask(None, node.address(web), 80, UDP) is not None
            asked += 1
        assert received() - begin < 20 < asked


@on_own_host
def test_a_kernel_that_takes_no_programs_leaves_all_to_the_bridge() -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(1, "not here")

    with pytest.MonkeyPatch.context() as patch, Machine() as machine:
        patch.setattr(bpf, "load", refuse)
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net")
        serve(None, 81)
        gateway = node.gateway(web)
        assert comes_to_answer(node.netns[web], gateway, 81) == node.address(web)
        assert node.defects() == set()
        assert faults.filters_of(port_of(node, web)) == []
        index = socket.if_nametoindex(port_of(node, web))
        with Netlink() as netlink:
            patch.setattr(straight, "_works", None)
            assert straight.lost(netlink, [index]) == frozenset(), "another process does not know"
