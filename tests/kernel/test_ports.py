"""Published ports in both families, chosen ones, and ports with several backends, each test on a host of its
own (net_box)."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from runtime.faults import Fault
from runtime.linux import namespaces
from runtime.net import addresses, contents, firewall, links, nft, rules
from specs.values import PortBinding, addresses_meet
from tests.kernel.net_box import (
    HOST,
    HOST6,
    MARKS,
    OUTSIDE,
    OUTSIDE6,
    TCP,
    UDP,
    Machine,
    Node,
    ask,
    on_own_host,
    open_socket,
    port_of,
    serve,
    sh,
)

pytestmark = MARKS


def table(node: Node) -> str:
    return addresses.table_name(str(node.paths.root.resolve()))


@on_own_host
def test_a_published_port_answers_by_ipv6_wherever_it_does_by_ipv4() -> None:
    with Machine() as machine:
        machine.ipv6()
        node = machine.fabric()
        node.network("p/front", ipv6=True)
        node.network("p/back", ipv6=True)
        ports = (PortBinding("", 8080, 80), PortBinding("", 5353, 53, "udp"))
        web = node.container("p/web", "p/front", ports=ports)
        peer, other = node.container("p/peer", "p/front"), node.container("p/other", "p/back")
        serve(node.netns[web], 80)
        serve(node.netns[web], 53, UDP)
        gateway = next(net.gateway6 for net in node.fabric.networks() if net.name == "p/front")
        for port, kind in ((8080, TCP), (5353, UDP)):
            assert ask(machine.outside, HOST6, port, kind) == OUTSIDE6, "the client's address is kept"
            assert ask(None, "::1", port, kind) == gateway
            assert ask(None, HOST6, port, kind) is not None
            assert ask(node.netns[peer], HOST6, port, kind) is not None
            assert ask(node.netns[web], HOST6, port, kind) is not None, "hairpin to itself"
            assert ask(node.netns[other], HOST6, port, kind) == node.address6(other)
            assert ask(machine.outside, HOST, port, kind) == OUTSIDE
        assert ask(node.netns[other], node.address6(web), 80) is None, "networks are islands"
        bridge, switch = node.fabric.networks()[1].bridge, "bridge/bridge-nf-call-ip6tables"
        has_module = bool(links.read_sysctl(switch))
        for state in ("0", "1") if has_module else ("",):
            links.write_sysctl(switch, state, optional=True)
            for id in (web, peer):
                node.fabric.attach(id, node.netns[id])  # hairpin follows bridge netfilter
            assert ask(None, "::1", 8080) == gateway and ask(None, "::1", 5353, UDP) == gateway
            assert node.defects() == set()
        sh("ip", "-6", "route", "delete", "local", "::1", "dev", bridge)
        assert node.defects() == {"forwarding"} and ask(None, "::1", 8080) is None
        node.fabric.publish(force=True)
        assert node.defects() == set() and ask(None, "::1", 8080) == gateway
        if has_module:
            for family in ("netdev", "ip6"):
                sh("nft", "delete", "table", family, table(node))
                assert node.defects() == {"forwarding"}
                assert ask(None, "::1", 8080) == gateway, "who goes straight does not need it"
                sh("tc", "qdisc", "delete", "dev", port_of(node, web), "clsact")
                assert ask(None, "::1", 8080) is None, "through the bridge it does"
                node.fabric.publish(force=True)
                assert node.defects() == {"link"} and ask(None, "::1", 8080) == gateway
                node.fabric.attach(web, node.netns[web])
                assert node.defects() == set() and ask(None, "::1", 8080) == gateway


@on_own_host
def test_a_container_cannot_reach_the_hosts_loopback_by_ipv6() -> None:
    with Machine() as machine:
        machine.ipv6()
        node = machine.fabric()
        node.network("p/net", ipv6=True)
        web = node.container("p/web", "p/net", ports=(PortBinding("::1", 8080, 80),))
        serve(None, 9999)
        serve(node.netns[web], 80)
        gateway = node.fabric.networks()[0].gateway6
        with namespaces.in_netns(node.netns[web]):
            sh("ip", "-6", "address", "delete", "::1/128", "dev", "lo")
            sh("ip", "-6", "route", "add", "::1", "via", gateway)
        for state in ("0", "1"):
            links.write_sysctl("bridge/bridge-nf-call-ip6tables", state, optional=True)
            assert ask(None, "::1", 9999) == "::1", "connections of the host to itself go by lo as ever"
            assert ask(None, "::1", 8080) is not None
            assert ask(node.netns[web], "::1", 9999) is None
            assert ask(node.netns[web], gateway, 9999) is not None, "its gateway it does reach"
        node.remove(web)
        node.fabric.remove_network("p/net")
        assert "stead" not in sh("nft", "list", "tables")


@on_own_host
def test_a_port_for_one_family_or_address_answers_there_only() -> None:
    with Machine() as machine:
        machine.ipv6()
        node = machine.fabric()
        node.network("p/net", ipv6=True)
        node.network("p/four")
        ports = (PortBinding("0.0.0.0", 81, 80), PortBinding("::", 82, 80), PortBinding(HOST6, 83, 80))
        web = node.container("p/web", "p/net", ports=ports)
        serve(node.netns[web], 80)
        answers = {81: {HOST}, 82: {HOST6}, 83: {HOST6}}
        for port, expected in answers.items():
            found = {address for address in (HOST, HOST6) if ask(machine.outside, address, port)}
            assert found == expected, port
        node.container("p/both", "p/net", ports=(PortBinding("::", 81, 80), PortBinding("0.0.0.0", 82, 80)))
        with pytest.raises(Fault, match=r"port \[::1\]:80:80/tcp is for IPv6") as caught:
            node.container("p/bad", "p/four", ports=(PortBinding("::1", 80, 80),))
        assert caught.value.code == "request-invalid" and "enable_ipv6" in caught.value.hint
        four = node.container("p/four", "p/four", ports=(PortBinding("", 84, 80),))
        serve(node.netns[four], 80)
        assert ask(machine.outside, HOST, 84) == OUTSIDE and ask(machine.outside, HOST6, 84) is None


@contextmanager
def listening(
    family: socket.AddressFamily, address: str, port: int, kind: socket.SocketKind, only: bool
) -> Iterator[None]:
    with socket.socket(family, kind) as server:
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        server.bind((address, port))
        if kind == TCP:
            server.listen(1)
        yield


@on_own_host
def test_a_listener_of_any_kind_is_named_and_one_on_other_packets_is_none() -> None:
    with Machine() as machine:
        machine.ipv6()
        node = machine.fabric()
        node.network("p/four")
        node.network("p/six", ipv6=True)
        four, six = socket.AF_INET, socket.AF_INET6
        cases = [  # listener, network, host_ip, whether it is in the way
            ((six, "::", TCP, False), "p/four", "", True),
            ((six, "::", TCP, True), "p/four", "", False),
            ((six, "::", TCP, True), "p/six", "", True),
            ((six, "::1", TCP, True), "p/four", "", False),
            ((six, "::1", UDP, True), "p/six", "::", True),
            ((four, "0.0.0.0", UDP, False), "p/six", "::", False),
            ((four, "127.0.0.1", UDP, False), "p/six", "127.0.0.1", True),
        ]
        for number, ((family, address, kind, only), network, host_ip, taken) in enumerate(cases):
            port = 9000 + number
            binding = PortBinding(host_ip, port, 80, "tcp" if kind == TCP else "udp")
            with listening(family, address, port, kind, only):
                if taken:
                    with pytest.raises(Fault, match=rf"port {port}/\w+ is used by .*pid {os.getpid()}"):
                        node.container(f"p/c{number}", network, ports=(binding,))
                else:
                    node.container(f"p/c{number}", network, ports=(binding,))


@on_own_host
def test_ports_that_are_left_to_us_are_free_ones_and_stay() -> None:
    with Machine() as machine:
        links.write_sysctl("ipv4/ip_local_port_range", "40000 40003")
        node = machine.fabric()
        node.network("p/net")
        asked = (PortBinding("", 0, 80), PortBinding("", 9000, 80, "tcp", 9002))
        with socket.create_server(("127.0.0.1", 9000)):
            web = node.container("p/web", "p/net", ports=asked)
        chosen, ranged = sorted(node.ports(web), key=lambda port: -port.host_port)
        assert 40000 <= chosen.host_port <= 40003 and ranged.host_port == 9001
        serve(node.netns[web], 80)
        assert ask(machine.outside, HOST, chosen.host_port) == OUTSIDE
        with node.database.write() as connection:  # as `adjust` does
            node.fabric.set_ports(connection, web, "p/web", (*asked, PortBinding("", 9009, 80)))
        assert {chosen, ranged} < set(node.ports(web)), "what was chosen stays"
        others = {node.ports(node.container(f"p/{n}", "p/net", ports=asked[:1]))[0] for n in range(3)}
        assert len({chosen, *others}) == 4
        with pytest.raises(Fault, match="every port from 40000 to 40003/tcp is taken"):
            node.container("p/late", "p/net", ports=asked[:1])
        node.remove(web)
        node.fabric.sweep(list(node.netns))
        again = node.container("p/web", "p/net", ports=asked)
        assert chosen in node.ports(again), "the same as before where it is free"
        assert PortBinding("", 9000, 80) in node.ports(again), "the first one of the range that is free now"


@on_own_host
def test_a_chosen_port_that_a_program_took_while_the_container_was_down_is_chosen_anew() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        web = node.container("p/web", "p/net", ports=(PortBinding("", 0, 80),))
        (before,) = node.ports(web)
        node.fabric.deactivate(web)
        node.fabric.publish(only=web)
        node.fabric.check_ports(web)
        assert node.ports(web) == [before]
        with socket.create_server(("127.0.0.1", before.host_port)):
            node.fabric.check_ports(web)
            (after,) = node.ports(web)
            assert after.host_port != before.host_port
            node.fabric.activate(web)
            node.fabric.publish(only=web)
        assert node.defects() == set()


@on_own_host
def test_replicas_share_a_port_and_those_that_are_not_ready_leave_it() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        ports = (PortBinding("", 8080, 80), PortBinding("127.0.0.1", 8081, 80))
        ids = {}
        for number in (1, 2, 3):
            id = node.container(f"p/web-{number}", "p/net", ports=ports, service="p/web")
            serve(node.netns[id], 80, answer_with=str(number))
            ids[str(number)] = id
            node.ready(id)
        node.fabric.publish()

        def answers(count: int = 60) -> Counter[str | None]:
            return Counter(ask(machine.outside, HOST, 8080) for _ in range(count))

        found = answers(120)
        assert set(found) == set(ids) and min(found.values()) >= 15
        assert {ask(None, "127.0.0.1", 8081) for _ in range(40)} == set(ids)
        node.ready(ids["1"], health="unhealthy")
        node.ready(ids["2"], health="starting")
        assert node.defects() == {"port"}
        node.fabric.publish()
        assert node.defects() == set() and set(answers()) == {"3"}
        node.ready(ids["3"], phase="backoff")
        node.fabric.publish()
        assert set(answers()) == set(ids), "where none is ready, all are asked"
        with pytest.raises(Fault, match="used by container p/web-"):
            node.container("p/thief", "p/net", ports=(PortBinding("", 8080, 80),))


@on_own_host
def test_a_replaced_backend_loses_no_connection_and_old_ones_live_on() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        ports = (PortBinding("", 8080, 80),)
        old = node.container("p/old", "p/net", ports=ports, service="p/web")
        serve(node.netns[old], 80, answer_with="old")
        node.ready(old)
        server = open_socket(node.netns[old], TCP)
        server.bind(("0.0.0.0", 81))
        server.listen(1)
        with node.database.write() as connection:
            node.fabric.set_ports(connection, old, "p/old", (*ports, PortBinding("", 8081, 81)))
        node.fabric.publish()
        with open_socket(machine.outside, TCP) as client:
            client.connect((HOST, 8081))
            kept, _ = server.accept()
            new = node.container("p/new", "p/net", ports=ports, service="p/web")
            serve(node.netns[new], 80, answer_with="new")
            assert {ask(machine.outside, HOST, 8080) for _ in range(20)} == {"old"}, "not ready yet"
            node.ready(new)
            node.fabric.publish(only=new)
            assert {ask(machine.outside, HOST, 8080) for _ in range(40)} == {"old", "new"}
            node.fabric.deactivate(old)
            node.fabric.publish(only=old)
            assert {ask(machine.outside, HOST, 8080) for _ in range(20)} == {"new"}
            assert ask(machine.outside, HOST, 8081) is None
            begin = time.monotonic()
            assert not node.fabric.drain(old, node.netns[old], 1.0) and time.monotonic() - begin >= 1.0
            begin = time.monotonic()  # as an agent does that comes after one that was killed meanwhile
            assert not node.fabric.drain(old, node.netns[old], 1.0) and time.monotonic() - begin < 0.5
            client.sendall(b"still here")
            kept.settimeout(5)
            assert kept.recv(100) == b"still here"
            kept.close()
        server.close()


@on_own_host
def test_a_udp_flow_leaves_a_backend_that_goes_and_stays_with_one_that_does_not() -> None:
    with Machine() as machine:
        machine.ipv6()
        node = machine.fabric()
        node.network("p/net", ipv6=True)
        ports = (PortBinding("", 5353, 53, "udp"),)
        ids = {}
        for number in ("1", "2"):
            ids[number] = node.container(f"p/n-{number}", "p/net", ports=ports, service="p/n")
            serve(node.netns[ids[number]], 53, UDP, answer_with=number)
            node.ready(ids[number])
        node.fabric.publish()
        for address, family in ((HOST, socket.AF_INET), (HOST6, socket.AF_INET6)):
            with open_socket(machine.outside, UDP, family) as client:
                client.connect((address, 5353))

                def answer(client: socket.socket = client) -> str:
                    client.send(b"?")
                    return client.recv(10).decode()

                def publish(id: str, up: bool) -> None:
                    (node.fabric.activate if up else node.fabric.deactivate)(id)
                    node.fabric.publish(only=id)

                first = answer()
                assert {answer() for _ in range(10)} == {first}, "a flow stays with its backend"
                other = "2" if first == "1" else "1"
                publish(ids[other], False)
                assert answer() == first
                publish(ids[other], True)
                assert answer() == first
                publish(ids[first], False)
                assert answer() == other
                publish(ids[first], True)


@on_own_host
def test_the_table_of_an_older_release_is_known_elsewhere_and_replaced_at_home() -> None:
    with Machine() as machine:

        def of_old(table: str) -> None:
            kind = "{ type inet_proto . inet_service : ipv4_addr . inet_service; }"
            add = f"add table ip {table}; add map ip {table} published {kind}"
            sh("nft", f"{add}; add element ip {table} published {{ 6 . 8080 : 10.0.0.2 . 80 }}")

        of_old("stead_0123456789ab")
        node = machine.fabric()
        own = table(node)
        of_old(own)
        node.network("p/net")
        assert ("ip", own) not in nft.tables() and ("inet", own) in nft.tables()
        with pytest.raises(Fault, match="published by another state directory"):
            node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))


@on_own_host
def test_a_port_of_another_state_directory_is_taken_for_the_same_packets_only() -> None:
    with Machine() as machine:
        machine.ipv6()
        one, two = machine.fabric("one"), machine.fabric("two")
        for node in (one, two):
            node.network("p/net", ipv6=True)
        theirs = [("", "tcp"), ("0.0.0.0", "tcp"), ("::", "udp"), ("127.0.0.1", "tcp"), ("::1", "sctp")]
        ports = tuple(PortBinding(ip, 9000 + n, 80, protocol) for n, (ip, protocol) in enumerate(theirs))
        for number in (1, 2):  # a port with several backends is in another map
            shared = tuple(replace(port, host_port=port.host_port + 100) for port in ports)
            given = shared if number == 2 else (*ports, *shared)
            one.container(f"p/w-{number}", "p/net", ports=given, service="p/w")
        asked = ["", "0.0.0.0", "::", "127.0.0.1", "127.0.0.2", "::1", HOST6]
        for base in (0, 100):
            for port in ports:
                for host_ip in asked:
                    mine = replace(port, host_ip=host_ip, host_port=port.host_port + base)
                    taken = firewall.publishes("inet", table(one), mine)
                    assert taken == addresses_meet(port.host_ip, host_ip), (port, host_ip, base)
        assert not firewall.publishes("inet", table(one), PortBinding("", 9000, 80, "udp"))
        for port, word in ((9000, "another state directory"), (9103, "another state directory")):
            with pytest.raises(Fault, match=word):
                two.container(f"p/c{port}", "p/net", ports=(PortBinding("", port, 80),))


@on_own_host
def test_every_element_reads_back_as_it_was_written_and_2000_ports_cost_no_more_each() -> None:
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net", ipv6=True)
        ports = tuple(
            PortBinding(host_ip, 20000 + number, 80, protocol)
            for number, (host_ip, protocol) in enumerate(
                (host_ip, protocol)
                for host_ip in ("", "127.0.0.1", "::1", "0.0.0.0", "::")
                for protocol in contents.PROTOCOLS
            )
        )
        for number in (1, 2):
            node.ready(node.container(f"p/w-{number}", "p/net", ports=ports, service="p/w"))
        one = node.container("p/one", "p/net", ports=(PortBinding("", 30000, 80, "sctp"),))
        for id in node.netns:
            node.fabric.publish(only=id)
        listing = nft.listed(["list", "table", rules.FAMILY, table(node)])
        assert listing is not None
        held = rules.read_listing(listing).contents
        assert held == node.fabric._publishing._wanted()
        assert (str(contents.PROTOCOLS["sctp"]), "30000", node.address(one), "80") in held.published
        many = tuple(PortBinding("", 40000 + number, 80) for number in range(2000))
        many_ports = node.container("p/many", "p/net", ports=many)
        assert node.defects() == set()
        sh("nft", "add", "table", "ip", "mine")
        node.container("p/next", "p/net", ports=(PortBinding("", 30001, 80),))
        assert node.defects() == set(), "a transaction of somebody else's in between is noticed"
        serve(node.netns[many_ports], 80)
        assert {ask(machine.outside, HOST, port) for port in (40000, 41999)} == {OUTSIDE}


@on_own_host
def test_what_is_taken_away_just_after_it_was_written_comes_back() -> None:
    """How nft lists the rules is read back and compared with later: not when a part has gone again."""
    with Machine() as machine:
        node = machine.fabric()
        node.network("p/net")
        listed, taken = nft.listed, list[str]()

        def late(arguments: list[str]) -> dict[str, Any] | None:
            if arguments[1] == "table" and "passing" in nft.chains("inet", table(node)):
                taken.append(sh("nft", f"delete chain inet {table(node)} passing"))
            return listed(arguments)

        nft.listed = late  # in this process only (net_box)
        sh("nft", "delete", "table", "inet", table(node))
        node.fabric.publish(force=True)
        nft.listed = listed
        assert len(taken) == 3, "it was tried again"
        assert node.defects() == {"firewall"}
        node.fabric.publish(force=True)
        assert node.defects() == set() and "passing" in nft.chains("inet", table(node))
