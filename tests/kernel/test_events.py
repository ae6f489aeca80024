"""What the kernel says of networks, heard on hosts of their own (net_box): ours, and not what is others'."""

from __future__ import annotations

import queue
import subprocess
import time

from runtime.linux import namespaces
from runtime.net import addresses, events, links
from runtime.net.events import Expected, Message, Watch, concerns
from tests.kernel.net_box import MARKS, Machine, Node, on_own_host, sh

pytestmark = MARKS


class Ear:
    """Counts what is heard."""

    def __init__(self, node: Node) -> None:
        self._heard: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._end = node.fabric.watch(lambda: self._heard.put(time.monotonic()))
        node.fabric.observe()

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def hears(self, timeout: float = 5.0) -> bool:
        try:
            self._heard.get(timeout=timeout)
        except queue.Empty:
            return False
        return True


def names(node: Node, id: str) -> tuple[str, str, str]:
    """Bridge, host's end of the pair, table."""
    root = str(node.paths.root.resolve())
    bridge = addresses.bridge_name(root, "net")
    return bridge, addresses.link_name(root, id, "net"), addresses.table_name(root)


@on_own_host
def test_what_is_done_to_ours_is_heard_on_the_host_and_in_containers() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("net", ipv6=True)
        id = node.container("web", "net")
        bridge, end, _ = names(node, id)
        inside = ("nsenter", f"--net={node.netns[id]}")
        for command in (
            ("nft", "flush", "ruleset"),
            ("ip", "link", "set", bridge, "mtu", "1400"),
            ("ip", "link", "set", end, "nomaster"),
            ("ip", "address", "flush", "dev", bridge),
            ("ip", "route", "delete", "10.88.0.0/24"),
            ("sysctl", "-qw", "net.ipv4.ip_forward=0"),
            ("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"),
            ("sysctl", "-qw", f"net.ipv4.conf.{bridge}.route_localnet=0"),
            (*inside, "ip", "route", "delete", "default"),
            (*inside, "ip", "-6", "route", "delete", "default"),
            (*inside, "ip", "address", "delete", f"{node.address(id)}/24", "dev", "eth0"),
            (*inside, "ip", "link", "set", "lo", "down"),
            (*inside, "ip", "link", "delete", "eth0"),
        ):
            with Ear(node) as ear:
                sh(*command)
                assert ear.hears(), command
            node.fabric.repair_network("net")
            node.fabric.attach(id, node.netns[id])
            node.fabric.publish(force=True)
            assert node.defects() == set(), command


@on_own_host
def test_what_is_done_to_others_is_not_heard() -> None:
    with Machine() as machine:
        node, other = machine.fabric("one"), machine.fabric("two", pool="10.99.0.0/16")
        node.network("net")
        node.container("web", "net")
        other.network("net")
        with Ear(node) as ear:
            theirs = other.container("web", "net")
            sh("nsenter", f"--net={other.netns[theirs]}", "ip", "route", "delete", "default")
            other.fabric.detach(theirs)
            other.fabric.deactivate(theirs)
            other.fabric.publish()
            sh("ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
            sh("ip", "route", "add", "203.0.113.0/24", "dev", "up0")
            sh("ip", "route", "delete", "203.0.113.0/24")
            sh("ip", "link", "delete", "x0")
            sh("nft", "add table ip theirs; add chain ip theirs plain; delete table ip theirs")
            assert not ear.hears(1.0)
            sh("nft", "flush", "ruleset")
            assert ear.hears(), "it was not deaf"


@on_own_host
def test_a_chain_of_others_that_may_drop_what_we_forward_is_heard() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("net")
        with Ear(node) as ear:
            sh("nft", "add table inet f; add chain inet f forward { type filter hook forward priority 0; }")
            assert ear.hears()


@on_own_host
def test_a_rule_that_is_lost_and_let_us_pass_a_table_of_others_is_heard() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("net")
        mark = addresses.bridge_prefix(str(node.paths.root.resolve()))
        sh("nft", "add table ip filter; add chain ip filter USER; add chain ip filter OTHER")
        sh("nft", f'add rule ip filter USER iifname "{mark}*" accept; add rule ip filter OTHER counter drop')
        with Ear(node) as ear:
            sh("nft", "flush chain ip filter OTHER")
            assert not ear.hears(0.5)
            sh("nft", "flush chain ip filter USER")
            assert ear.hears()


@on_own_host
def test_events_that_were_lost_are_a_reason_to_look() -> None:
    events.BUFFER, before = 4096, events.BUFFER
    heard: queue.SimpleQueue[None] = queue.SimpleQueue()
    watch = Watch(lambda: heard.put(None))
    try:
        lines = [f"route {verb} 203.0.{n}.0/24 dev lo" for n in range(250) for verb in ("add", "delete")]
        sh("ip", "link", "set", "lo", "up")
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
        heard.get(timeout=30.0)
        assert watch.overruns > 0
    finally:
        watch.close()
        events.BUFFER = before


@on_own_host
def test_an_untouched_container_is_not_entered_again_and_a_touched_one_is() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("net")
        first, second = node.container("a", "net"), node.container("b", "net")
        entered: list[str] = []
        real = namespaces.setns

        def counted(fd: int, flags: int = 0) -> None:
            entered.append(str(fd))
            real(fd, flags)

        with Ear(node) as ear:
            node.fabric.observe()
            namespaces.setns = counted
            try:
                node.fabric.observe()
                assert entered == []
                sh("nsenter", f"--net={node.netns[second]}", "ip", "route", "delete", "default")
                assert ear.hears()
                found = node.fabric.observe().containers
            finally:
                namespaces.setns = real
        assert len(entered) == 2, "into one of them, and back"
        assert [defect.kind for defect in found[second]] == ["route"] and found[first] == ()


def test_a_message_that_cannot_be_read_is_a_reason_to_look() -> None:
    link = links.Link(7, "stb", True, "bridge", 1500, 0, "02:00:00:00:00:01", False)
    expected = Expected("stead", {7: link}, frozenset({7}), frozenset({3}))
    assert concerns(Message(16, b"\1"), expected)
    assert concerns(Message(20, b""), expected)
    assert not concerns(Message(4711, b""), expected), "of an unknown kind"
    assert not concerns(Message(25, bytes(12), 4), expected), "from the namespace of somebody else"


@on_own_host
def test_settings_are_watched_from_the_first_look_on_though_nothing_else_happens() -> None:
    heard: queue.SimpleQueue[bool] = queue.SimpleQueue()
    watch = Watch(lambda: heard.put(True))
    try:
        time.sleep(0.2)  # until it waits
        name = "ipv4/conf/lo/route_localnet"
        watch.expect(Expected(settings=((name, links.read_sysctl(name)),)))
        links.write_sysctl(name, "1")
        assert heard.get(timeout=30.0)
    finally:
        watch.close()
