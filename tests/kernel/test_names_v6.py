"""Names on a network with both families: at both gateways, of both kinds of addresses, for its members."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess

import pytest

from runtime.linux import namespaces
from runtime.net.dns import wire
from tests.kernel.names_box import question
from tests.kernel.net_box import MARKS, on_own_host, sh
from tests.kernel.test_names_files import Shop, own_etc, rewritten, shop

pytestmark = [*MARKS, pytest.mark.skipif(shutil.which("dig") is None, reason="needs dig (bind9-dnsutils)")]


def dig(made: Shop, id: str, *words: str) -> list[str]:
    """What dig in the container's network says in short, sorted."""
    with namespaces.in_netns(made.node.netns[id]):
        done = subprocess.run(
            ["dig", "-r", "+short", "+tries=2", "+time=5", *words], capture_output=True, text=True, check=True
        )
    return sorted(done.stdout.split())


@on_own_host
def test_both_gateways_answer_members_with_addresses_of_both_families() -> None:
    with own_etc() as etc, shop() as made:
        rewritten(etc, "nameserver 192.0.2.1\n")
        made.node.network("shop/dual", ipv6=True)
        web = made.container("shop/web", "shop/dual", extra_hosts=(("gw", "host-gateway"),))
        asker = made.container("shop/asker", "shop/dual")
        record = next(item for item in made.node.fabric.networks() if item.name == "shop/dual")
        with namespaces.in_netns(made.node.netns[web]):
            (address6,) = re.findall(r"inet6 (fd\S+)/", sh("ip", "-6", "address", "show", "scope", "global"))
        address = made.node.address(web)
        for server in (f"@{record.gateway}", f"@{record.gateway6}"):
            for more in ((), ("+tcp",)):
                assert dig(made, asker, server, "web", "A", *more) == [address]
                assert dig(made, asker, server, "web", "AAAA", *more) == [address6]
            assert dig(made, asker, server, "-x", address6) == ["web.shop."]
            assert dig(made, asker, server, "-x", address) == ["web.shop."]
            assert dig(made, asker, server, "web", "ANY") == sorted([address, address6])
        assert f"nameserver {record.gateway}\n" in made.resolv(web) and record.gateway6 not in made.resolv(
            web
        )
        hosts = (made.home(web) / "hosts").read_text()
        for line in (f"{address6}\tweb", f"{record.gateway}\tgw", f"{record.gateway6}\tgw"):
            assert f"{line}\n" in hosts
        assert made.node.defects() == set()


@on_own_host
def test_a_stranger_that_asks_by_ipv6_hears_nothing() -> None:
    with own_etc() as etc, shop() as made:
        rewritten(etc, "nameserver 192.0.2.1\n")
        made.node.network("shop/dual", ipv6=True)
        made.container("shop/web", "shop/dual")
        record = next(item for item in made.node.fabric.networks() if item.name == "shop/dual")
        sh("ip", "address", "add", "fd99::1/64", "dev", "lo", "nodad")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.3)
            sock.bind(("fd99::1", 0))
            sock.sendto(question("web"), (record.gateway6, 53))
            with pytest.raises(TimeoutError):
                sock.recv(512)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10.0)
            sock.bind((record.gateway6, 0))  # of the network
            sock.sendto(question("web.shop", wire.AAAA), (record.gateway6, 53))
            assert struct.unpack("!H", sock.recv(512)[6:8]) == (1,)
