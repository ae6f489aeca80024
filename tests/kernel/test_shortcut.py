"""The host's own connections to published ports by 127.0.0.1 and [::1]: made to the container at once.

Whether a connection took the shortcut shows where nftables does not lead it any more: its table is deleted.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path

from runtime.linux import bpf, cgroups, libc, namespaces
from runtime.net import addresses, shortcut
from runtime.net.contents import shortcuts
from specs.values import PortBinding
from tests.kernel.net_box import (
    HOST,
    MARKS,
    TCP,
    UDP,
    Machine,
    Node,
    ask,
    comes_to_answer,
    on_own_host,
    open_socket,
    serve,
    sh,
)

pytestmark = MARKS

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def table(node: Node) -> str:
    return addresses.table_name(str(node.paths.root.resolve()))


def without_rules(node: Node) -> None:
    sh("nft", "delete", "table", "inet", table(node))


def attached() -> set[int]:
    """Ids of the programs that are asked at a connect(2) by IPv4, whoever made them."""
    hierarchy = cgroups.detect().v2
    assert hierarchy is not None
    root = os.open(hierarchy.root, os.O_RDONLY)
    try:
        return set(bpf.attached(root, bpf.CONNECT4))
    finally:
        os.close(root)


def programs(pid: int | str = "self") -> set[int]:
    """Those of them that this process, or another one, holds: proc_pid_fdinfo(5)."""
    found = set()
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # of the look itself
            lines = (line.split() for line in file.read_text().splitlines())
            found.update(int(words[1]) for words in lines if words[0] == "prog_id:")
    return found & attached()


def with_web(machine: Machine, *ports: PortBinding) -> tuple[Node, str]:
    node = machine.fabric(shortcut=True)
    node.network("p/net", ipv6=True)
    web = node.container("p/web", "p/net", ports=ports or (PortBinding("", 8080, 80),))
    serve(node.netns[web], 80)
    return node, web


@on_own_host
def test_connections_by_loopback_go_to_the_container_without_rules() -> None:
    with Machine() as machine:
        node, web = with_web(machine)
        gateway = node.gateway(web)
        assert ask(None, "127.0.0.1", 8080) == gateway
        for address in LOOPBACK:
            assert ask(None, address, 8080) is not None
        assert node.defects() == set()
        without_rules(node)
        for address in LOOPBACK:
            assert ask(None, address, 8080) is not None
        assert ask(None, "127.0.0.1", 8080) == gateway
        assert ask(None, HOST, 8080) is None and ask(None, "127.0.0.2", 8080) is None
        assert node.defects() == {"firewall"}
        node.fabric.publish(force=True)
        assert ask(None, HOST, 8080) is not None and ask(None, "127.0.0.2", 8080) is not None
        node.fabric.deactivate(web)
        node.fabric.publish(only=web)
        assert [ask(None, address, 8080) for address in LOOPBACK] == [None, None, None]


@on_own_host
def test_a_process_that_does_not_stay_makes_none() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        serve(node.netns[node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))], 80)
        assert ask(None, "127.0.0.1", 8080) is not None and programs() == set()
        without_rules(node)
        assert ask(None, "127.0.0.1", 8080) is None


@on_own_host
def test_a_program_sees_what_it_connected_to() -> None:
    with Machine() as machine:
        node, web = with_web(machine)
        for address in LOOPBACK:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with open_socket(None, TCP, family) as client:
                client.connect((address, 8080))
                assert client.getpeername()[:2] == (address, 8080) and client.recv(100)
        with open_socket(None, TCP) as client:
            client.connect((node.address(web), 80))
            assert client.getpeername() == (node.address(web), 80), "who asked for the container sees it"
            assert client.recv(100)
        with open_socket(None, TCP) as client:  # a socket that is used twice
            client.connect(("127.0.0.1", 8080))
            assert client.recv(100)
            libc.call("connect", client.fileno(), bytes(16), 16)  # AF_UNSPEC: dissolved, connect(2)
            serve(node.netns[web], 81)
            client.connect((node.address(web), 81))
            assert client.getpeername() == (node.address(web), 81)


@on_own_host
def test_a_socket_that_is_bound_to_the_loopback_has_its_answers() -> None:
    """curl --interface 127.0.0.1: what leaves by the bridge has the bridge's address there."""
    with Machine() as machine:
        with_web(machine)
        for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            with open_socket(None, TCP, family) as client:
                client.bind((address, 0))
                client.connect((address, 8080))
                assert client.recv(100) and client.getsockname()[0] == address


@on_own_host
def test_udp_and_ports_of_several_backends_go_by_the_rules() -> None:
    with Machine() as machine:
        node = machine.fabric(shortcut=True)
        node.network("p/net", ipv6=True)
        ports = PortBinding("", 8080, 80), PortBinding("", 5353, 53, "udp")
        web = node.container("p/web", "p/net", ports=ports, service="p/web")
        serve(node.netns[web], 80)
        serve(node.netns[web], 53, UDP)
        assert ask(None, "127.0.0.1", 5353, UDP) is not None
        second = node.container("p/web2", "p/net", ports=ports, service="p/web")
        serve(node.netns[second], 80, answer_with="second")
        node.ready(web)
        node.ready(second)
        node.fabric.publish()
        answers = {ask(None, "127.0.0.1", 8080) for _ in range(60)}
        assert "second" in answers and len(answers) == 2
        node.fabric.deactivate(web)
        node.fabric.publish(only=web)
        assert {ask(None, "127.0.0.1", 8080) for _ in range(20)} == {"second"}
        without_rules(node)
        assert ask(None, "127.0.0.1", 8080) == "second", "alone it is at the end of the shortcut"
        assert ask(None, "127.0.0.1", 5353, UDP) is None


@on_own_host
def test_a_port_for_one_address_has_it_by_that_address_only() -> None:
    with Machine() as machine:
        local = PortBinding("127.0.0.1", 8080, 80), PortBinding(HOST, 8081, 80), PortBinding("::1", 8082, 80)
        node, _ = with_web(machine, *local, PortBinding("127.0.0.9", 8083, 80))
        before = [ask(None, address, port) is not None for address, port in ways()]
        assert before == [True, False, False, False, True, True]
        without_rules(node)
        assert [ask(None, address, port) is not None for address, port in ways()] == before


def ways() -> list[tuple[str, int]]:
    return [
        ("127.0.0.1", 8080),
        ("::1", 8080),
        ("127.0.0.1", 8081),
        ("127.0.0.1", 8082),
        ("::1", 8082),
        ("127.0.0.9", 8083),
    ]


@on_own_host
def test_programs_in_other_network_namespaces_are_left_alone() -> None:
    with Machine() as machine:
        node, web = with_web(machine)
        namespaces.create_netns(other := machine.directory / "other")
        machine.stack.callback(namespaces.delete_netns, other)
        for place in (machine.outside, other, node.netns[web]):
            if place == machine.outside:
                with namespaces.in_netns(place):
                    sh("ip", "link", "set", "lo", "up")
            assert ask(place, "127.0.0.1", 8080) is None
            serve(place, 8080, answer_with=place.name)
            assert ask(place, "127.0.0.1", 8080) == place.name
        assert ask(None, "127.0.0.1", 8080) != other.name


@on_own_host
def test_what_another_process_changes_never_leads_astray() -> None:
    """A command beside the agent: nothing is left that leads where the rules do not, and it is no defect."""
    with Machine() as machine:
        node, web = with_web(machine)
        other = Node(node.paths, "10.88.0.0/16")
        machine.stack.callback(other.close)
        other.fabric.deactivate(web)
        other.fabric.publish(only=web)
        assert [ask(None, address, 8080) for address in LOOPBACK] == [None, None, None]
        assert node.defects() == set()
        other.fabric.activate(web)
        other.fabric.publish(only=web)
        assert ask(None, "127.0.0.1", 8080) is not None
        assert node.defects() == set()
        without_rules(node)
        assert ask(None, "127.0.0.1", 8080) is not None, "the look brought it back"
        other.fabric.publish(force=True)
        assert node.defects() == set()
        without_rules(node)
        assert ask(None, "::1", 8080) is not None


@on_own_host
def test_a_detached_program_is_a_defect_and_repaired() -> None:
    with Machine() as machine:
        node, _ = with_web(machine)
        mine = node.fabric._publishing._firewall._shortcut
        for place in range(len(mine._links)):
            link = struct.pack("=I", mine._links[place])
            libc.syscall("bpf", 34, link, len(link))  # BPF_LINK_DETACH, as bpftool-link(8) does
            assert ask(None, "127.0.0.1", 8080) is not None and ask(None, "::1", 8080) is not None
            assert node.defects() == {"firewall"}
            node.fabric.publish(force=True)
            assert node.defects() == set() and len(programs()) == 1


@on_own_host
def test_it_ends_with_its_process_and_connections_live_on() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))
        server = open_socket(node.netns[web], TCP)
        server.bind(("", 80))
        server.listen()
        reads, writes = os.pipe()
        if not (agent := os.fork()):
            made = shortcut.Shortcut(table(node), lasting=True)
            made.fill({("127.0.0.1", 8080): (node.address(web), 80)})
            os.write(writes, b".")
            signal.pause()
        os.read(reads, 1)
        (program,) = programs(agent)
        with open_socket(None, TCP) as client:
            client.connect(("127.0.0.1", 8080))
            peer, _ = server.accept()
            os.kill(agent, signal.SIGKILL)
            os.waitpid(agent, 0)
            for _ in range(100):  # the kernel detaches it from a work queue
                if program not in attached():
                    break
                signal.sigtimedwait([], 0.05)
            assert program not in attached()
            client.sendall(b"still here")
            assert peer.recv(20) == b"still here"
        with open_socket(None, TCP) as client:
            client.connect(("127.0.0.1", 8080))  # by the rules
        server.close()


@on_own_host
def test_without_ebpf_everything_goes_by_the_rules() -> None:
    def refused(*_: object) -> int:
        raise PermissionError(1, "bpf: Operation not permitted")

    bpf.load = refused  # in this process only (net_box)
    with Machine() as machine:
        node, _ = with_web(machine)
        assert ask(None, "127.0.0.1", 8080) is not None and ask(None, "::1", 8080) is not None
        assert node.defects() == set() and programs() == set()
        node.fabric.publish(force=True)
        assert comes_to_answer(None, "127.0.0.1", 8080) is not None


def test_one_address_of_the_loopback_comes_before_every_address() -> None:
    maps = {
        "published": {("6", "80", "10.0.0.2", "8080"), ("17", "53", "10.0.0.2", "53")},
        "published6": {("6", "80", "fd00::2", "8080")},
        "published_at": {
            ("127.0.0.1", "6", "80", "10.0.0.3", "1"),
            ("192.0.2.1", "6", "81", "10.0.0.3", "1"),
        },
        "spread": {("6", "82", "0", "10.0.0.4", "1")},
        "spread6_at": {("::1", "6", "80", "0", "fd00::4", "1")},
    }
    assert shortcuts(maps) == {("127.0.0.1", 80): ("10.0.0.3", 1)}


def test_jumps_lead_to_their_labels() -> None:
    step, jump = bpf.instruction(0xB7), bpf.instruction(0x05)
    code = bpf.assemble(["top", ("end", jump), bpf.wide(1, 2**40), ("top", jump), "end", step])
    offsets = [struct.unpack_from("=BBhi", code, at)[2] for at in range(0, len(code), 8)]
    assert offsets == [3, 0, 0, -4, 0]
