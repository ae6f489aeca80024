"""Networks of both families, their changes under containers that run, macvlan, and more members than a bridge
takes; each test on a host of its own (net_box)."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.faults import Fault
from runtime.linux import namespaces
from runtime.net import links
from runtime.wishes import Attachment, NetworkOptions
from specs.values import PortBinding
from tests.kernel.net_box import (
    HOST,
    HOST6,
    MARKS,
    OUTSIDE,
    OUTSIDE6,
    Machine,
    Node,
    ask,
    comes_to_answer,
    on_own_host,
    serve,
    sh,
)

pytestmark = MARKS


def leftovers(node: Node) -> tuple[list[str], list[str]]:
    """Links of ours in the kernel, and rows in the database."""
    connection = sqlite3.connect(node.paths.database)
    tables = ("networks", "leases", "endpoints", "published_ports")
    rows = [table for table in tables if connection.execute(f"SELECT 1 FROM {table}").fetchone()]
    connection.close()
    return [name for name in links.links() if name.startswith("st")], rows


def take_down(node: Node) -> None:
    for id in list(node.netns):
        node.remove(id)
    for network in node.fabric.networks():
        node.fabric.remove_network(network.name)
    assert leftovers(node) == ([], [])


@on_own_host
def test_a_network_has_both_families_and_keeps_others_out_in_both() -> None:
    with Machine() as machine:
        machine.ipv6()
        sh("sysctl", "-qw", "net.ipv6.conf.up0.accept_ra=1")
        node = machine.fabric()
        node.network("p/pooled", ipv6=True)
        node.network("p/chosen", subnet="10.9.0.0/24", subnet6="fd09::/64", gateway6="fd09::fe", mtu=1400)
        node.network("p/closed", ipv6=True, internal=True)
        assert links.read_sysctl("ipv6/conf/up0/accept_ra") == "2", "the host hears its router as before"
        one, peer = node.container("p/one", "p/pooled"), node.container("p/peer", "p/pooled")
        other, shut = node.container("p/other", "p/chosen"), node.container("p/shut", "p/closed")
        for id in (one, peer, other, shut):
            serve(node.netns[id], 80)
        serve(machine.outside, 80)
        assert ask(node.netns[peer], node.address6(one), 80) == node.address6(peer), (
            "there at once, without DAD"
        )
        assert node.address6(other) == "fd09::1", "the gateway is another one"
        assert ask(node.netns[one], OUTSIDE6, 80) == HOST6, "it leaves with the host's address"
        assert ask(node.netns[shut], OUTSIDE6, 80) is None
        for address in (node.address6(other), node.address(other), node.address6(shut), node.address(shut)):
            assert ask(node.netns[one], address, 80) is None, "networks are apart"
        shown = node.inside(other, "ip", "-6", "route")
        assert "default via fd09::fe dev eth0" in shown
        assert "mtu 1400" in node.inside(other, "ip", "link", "show", "eth0")
        assert node.inside(other, "sysctl", "-n", "net.ipv6.conf.eth0.accept_ra").strip() == "0"
        assert "default" not in node.inside(shut, "ip", "-6", "route") + node.inside(shut, "ip", "route")
        assert node.defects() == set()
        take_down(node)


@on_own_host
def test_a_network_without_ipv6_has_none_inside_and_subnets_of_the_host_are_not_taken() -> None:
    with Machine() as machine:
        machine.ipv6()
        node = machine.fabric(pool="198.51.0.0/16")
        plain = node.network("p/plain") or node.container("p/plain", "p/plain")
        assert "inet6" not in node.inside(plain, "ip", "address", "show", "eth0")
        assert node.inside(plain, "sysctl", "-n", "net.ipv6.conf.eth0.disable_ipv6").strip() == "1"
        sh("ip", "-6", "route", "add", "fd77:1::/64", "dev", "up0")
        for fields in (
            {"subnet6": "2001:db8::/32"},
            {"subnet6": "fd77:1::/56"},
            {"subnet": f"{HOST}/32"[:-3] + "/29"},
        ):
            with pytest.raises(Fault) as caught:
                node.network("p/bad", **fields)
            assert caught.value.code in ("subnet-overlap", "request-invalid"), fields
        with pytest.raises(Fault, match="overlaps"):
            node.network("p/bad", subnet="198.51.100.0/25")
        with pytest.raises(Fault, match="has no IPv6"):
            node.container("p/x", Attachment("p/plain", ipv6_address="fd00::9"))
        with pytest.raises(Fault, match="is not within"):
            node.network("p/bad", subnet="10.9.0.0/24", options=NetworkOptions(ip_range="10.8.0.0/25"))
        assert [network.name for network in node.fabric.networks()] == ["p/plain"]


@on_own_host
def test_networks_change_under_a_container_that_runs() -> None:
    with Machine() as machine:
        machine.ipv6()
        node = machine.fabric()
        node.network("p/a", subnet="10.1.0.0/24", ipv6=True)
        node.network("p/b", subnet="10.2.0.0/24", subnet6="fd02::/64")
        a, b = Attachment("p/a"), Attachment("p/b", gw_priority=5, interface_name="lan0")
        web, peer = node.container("p/x", a), node.container("p/peer", "p/b", "p/a")
        serve(node.netns[web], 80)
        first = node.leases(web)["p/a"]
        node.settle(web, [a], [a, b])
        joined = node.leases(web)["p/b"]
        assert ask(node.netns[peer], joined.address, 80) and ask(node.netns[peer], joined.address6, 80)
        assert "default via 10.2.0.1 dev lan0" in node.inside(web, "ip", "route")
        assert "default via fd02::1 dev lan0" in node.inside(web, "ip", "-6", "route")
        assert node.leases(web)["p/a"] == first, "what was there stays as it was"
        moved = Attachment(
            "p/b", (), "10.2.0.77", "02:00:00:00:00:77", "fd02::77", -1, "lan0", ("169.254.7.7",)
        )
        node.settle(web, [a, b], [a, moved])
        for address in ("10.2.0.77", "fd02::77"):
            assert comes_to_answer(node.netns[peer], address, 80)
        assert ask(node.netns[peer], joined.address, 80) is None, "the old address is gone"
        shown = node.inside(web, "ip", "address", "show", "lan0")
        assert moved.mac_address in shown and "169.254.7.7/16" in shown
        assert "default via 10.1.0.1 dev eth0" in node.inside(web, "ip", "route")
        assert node.defects() == set()
        node.settle(web, [a, moved], [Attachment("p/b")])
        assert list(node.leases(web)) == ["p/b"] and node.leases(web)["p/b"].address == "10.2.0.77"
        assert "default via 10.2.0.1 dev eth1" in node.inside(web, "ip", "route")
        assert "lan0" not in node.inside(web, "ip", "link")
        assert node.defects() == set()
        take_down(node)


@on_own_host
def test_what_cannot_be_given_leaves_a_container_where_it_is() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/a", subnet="10.1.0.0/24", ipv6=True)
        a = Attachment("p/a", mac_address="02:00:00:00:00:01")
        web, peer = node.container("p/x", a), node.container("p/peer", "p/a")
        taken = node.leases(peer)["p/a"]
        before = node.leases(web)
        for wanted, text in (
            (Attachment("p/a", ipv4_address=taken.address), "belongs to container p/peer"),
            (Attachment("p/a", ipv6_address=taken.address6), "belongs to container p/peer"),
            (Attachment("p/a", mac_address=taken.mac), "belongs to container p/peer"),
            (Attachment("p/a", ipv4_address="10.1.0.1"), "belongs to the gateway"),
            (Attachment("p/a", ipv4_address="10.1.1.5"), "not a host address of network p/a"),
            (Attachment("p/none"), "there is no network of this name"),
        ):
            with pytest.raises(Fault, match=text):
                node.settle(web, [a], [wanted])
            assert node.leases(web) == before


@on_own_host
def test_members_are_kept_apart_where_the_network_says_so() -> None:
    with Machine() as machine:
        machine.ipv6()
        node = machine.fabric()
        node.network("p/apart", ipv6=True, options=NetworkOptions(icc=False))
        one, other = node.container("p/one", "p/apart"), node.container("p/other", "p/apart")
        serve(node.netns[other], 80)
        serve(None, 80)
        serve(machine.outside, 80)
        assert ask(node.netns[one], node.address(other), 80) is None
        assert ask(node.netns[one], node.address6(other), 80) is None
        assert ask(node.netns[one], OUTSIDE, 80) == HOST
        assert ask(None, node.address(other), 80), "the host reaches them"
        node.network("p/routed", subnet="10.7.0.0/24", options=NetworkOptions(masquerade=False))
        with namespaces.in_netns(machine.outside):
            sh("ip", "route", "add", "10.7.0.0/24", "via", HOST)
        routed = node.container("p/routed", "p/routed")
        assert ask(node.netns[routed], OUTSIDE, 80) == node.address(routed), "without masquerade"
        assert node.defects() == set()


@on_own_host
def test_more_members_than_a_bridge_takes_are_one_network() -> None:
    links.MEMBERS = 2  # 1,000 in truth
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/big", ipv6=True)
        ids = [node.container(f"p/{number}", "p/big") for number in range(5)]
        shards = [node.leases(id)["p/big"].shard for id in ids]
        assert shards == [0, 0, 1, 1, 2]
        serve(node.netns[ids[4]], 80)
        serve(machine.outside, 80)
        for id in ids[:4]:
            assert comes_to_answer(node.netns[id], node.address(ids[4]), 80) == node.address(id)
            assert comes_to_answer(node.netns[id], node.address6(ids[4]), 80) == node.address6(id)
        assert ask(node.netns[ids[4]], OUTSIDE, 80) == HOST
        assert node.defects() == set() and node.fabric.observe().strays == frozenset()
        further = [name for name, link in links.links().items() if link.kind == "bridge"]
        own = node.fabric.networks()[0].bridge
        for name in further:
            if name != own:
                sh("ip", "link", "delete", name)
        assert node.defects() == {"bridge"}
        node.fabric.repair_network("p/big")
        assert node.defects() == set()
        assert comes_to_answer(node.netns[ids[0]], node.address(ids[4]), 80)
        node.remove(ids[0])
        late = node.container("p/late", "p/big")
        assert node.leases(late)["p/big"].shard == 0, "room on an earlier bridge is taken again"
        take_down(node)


@on_own_host
def test_macvlan_gives_addresses_of_the_network_of_an_interface() -> None:
    lan = {"subnet": "198.51.100.0/24", "gateway": OUTSIDE}
    with Machine() as machine:
        node = machine.fabric()
        options = NetworkOptions("macvlan", "up0", ip_range="198.51.100.64/28", reserved=("198.51.100.64",))
        node.network("p/lan", options=options, **lan)
        node.network("p/back")
        serve(machine.outside, 80)
        one = node.container("p/one", "p/lan")
        two = node.container("p/two", Attachment("p/lan", (), "198.51.100.9"), "p/back")
        assert [node.address(one), node.address(two)] == ["198.51.100.65", "198.51.100.9"]
        for id in (one, two):
            assert comes_to_answer(node.netns[id], OUTSIDE, 80) == node.address(id), "with its own address"
        serve(node.netns[one], 81)
        assert ask(machine.outside, node.address(one), 81) == OUTSIDE
        assert ask(node.netns[two], node.address(one), 81) == node.address(two)
        assert f"default via {OUTSIDE} dev eth0" in node.inside(two, "ip", "route")
        before = node.fabric.traffic()[one, "p/lan"]
        assert ask(node.netns[one], OUTSIDE, 80)
        after = node.fabric.traffic()[one, "p/lan"]
        assert after["tx_packets"] > before["tx_packets"] and after["rx_bytes"] > before["rx_bytes"]
        assert node.defects() == set()
        node.inside(one, "ip", "link", "delete", "eth0")
        assert node.defects() == {"link"}
        node.fabric.attach(one, node.netns[one])
        assert node.defects() == set()
        assert comes_to_answer(node.netns[one], OUTSIDE, 80) == node.address(one)
        node.inside(one, "ip", "address", "delete", f"{node.address(one)}/24", "dev", "eth0")
        assert node.defects() == {"address"}
        node.remove(one)
        node.remove(two)
        sh("ip", "link", "add", "lan1", "type", "veth", "peer", "name", "lan2")
        for mode in ("private", "vepa", "passthru"):
            name = f"p/{mode}"
            node.network(name, subnet="10.55.0.0/24", options=NetworkOptions("macvlan", "lan1", mode))
            id = node.container("p/x", name)
            assert f"macvlan mode {mode}" in node.inside(id, "ip", "-d", "link", "show", "eth0")
            assert node.defects() == {"parent"}, "lan1 is down"
            with pytest.raises(Fault, match="interface lan1 is down"):
                node.fabric.repair_network(name)
            node.remove(id)
            node.fabric.remove_network(name)
        for wanted, text in (
            ({"options": NetworkOptions("macvlan", "none0")}, "there is no interface 'none0'"),
            ({"subnet": "", "options": NetworkOptions("macvlan", "lan1")}, "needs the subnet"),
        ):
            with pytest.raises(Fault, match=text):
                node.network("p/bad", **{"subnet": "10.66.0.0/24", **wanted})
        node.network("p/lan1", subnet="10.66.0.0/24", options=NetworkOptions("macvlan", "lan1"))
        sh("ip", "link", "set", "lan1", "up")
        late = node.container("p/late", "p/lan1", "p/back")
        sh("ip", "link", "delete", "lan1")
        assert node.defects() == {"parent"}, "which takes its links with it, and is one defect"
        with pytest.raises(Fault, match="the host's interface lan1"):
            node.fabric.attach(late, node.netns[late])
        take_down(node)


@on_own_host
def test_what_is_half_done_is_no_defect_whoever_publishes_meanwhile() -> None:
    """Several threads make and remove networks and ports: each publish brings its own change to the kernel,
    and says nothing of what another has only begun."""
    with Machine() as machine:
        node = machine.fabric()
        node.network("a")

        def turns(name: str) -> None:
            for _ in range(10):
                node.network(name)
                id = node.container(f"p/{name}", "a", ports=(PortBinding("", 8000 + ord(name), 80),))
                node.remove(id)
                node.fabric.remove_network(name)

        seen = []
        with ThreadPoolExecutor() as pool:  # it waits for them, whatever comes of this
            workers = [pool.submit(turns, name) for name in "bcd"]
            while not all(worker.done() for worker in workers):
                seen += [defect.text for defect in node.fabric.observe().firewall]
        assert seen == []
        for worker in workers:
            worker.result()
        node.fabric.publish()
        assert node.defects() == set()
