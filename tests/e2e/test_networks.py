"""Networks by the command line: what specs say of them changes under containers that run, what is done by
hand stays, and a container follows the one whose network it has."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest

from tests.e2e.conftest import Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

SERVE = 'image = "busy:1"\nstop_grace_period = "100ms"\ncommand = ["httpd", "-f", "-p", "80", "-h", "/www"]\n'
NETS = '[network.a]\nenable_ipv6 = true\n[network.b]\nlabels = { tier = "back" }\n'


def write(node: Node, web: str, more: str = "", nets: str = NETS) -> None:
    text = f"{nets}[container.web]\n{SERVE}{web}\n[container.peer]\n{SERVE}networks = ['a', 'b']\n{more}"
    (node.specs / "shop.toml").write_text(text)


def inspect(node: Node, *names: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(node.stead("network", "inspect", *names))
    return found


def member(network: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in network["Containers"].values() if item["Name"] == name)
    return found


def test_networks_of_a_running_container_change_without_a_restart(node: Node) -> None:
    write(node, "networks = ['a']")
    node.stead("apply", str(node.specs))
    before = node.ps()["default/web"]
    write(
        node,
        "networks = { a = {}, b = { aliases = ['www'], gw_priority = 1 }, c = {} }",
        nets=NETS + "[network.c]\n",
    )
    plan = node.stead("plan", str(node.specs), code=2)
    assert "adjust container default/web" in plan and "replace" not in plan
    node.stead("apply", str(node.specs))
    after = node.ps()["default/web"]
    assert (after["id"], after["pid"]) == (before["id"], before["pid"])
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"
    assert "well" in node.stead("exec", "peer", "busybox", "wget", "-qO-", "http://www/"), (
        "a new alias is known"
    )
    (a, b) = inspect(node, "a", "b")
    assert f"via {b['IPAM']['Config'][0]['Gateway']} dev eth1" in node.stead(
        "exec", "web", "busybox", "ip", "route"
    )
    assert a["EnableIPv6"] and member(a, "default/web")["IPv6Address"].endswith("/64")
    write(node, "networks = ['b']")
    node.stead("apply", str(node.specs))
    assert node.ps()["default/web"]["pid"] == before["pid"]
    assert node.stead("network", "ls", "--format", "{{.Name}}").split() == ["default/a", "default/b"]
    assert "eth0" not in node.stead("exec", "web", "busybox", "ip", "-o", "link")


def test_what_is_connected_by_hand_stays_and_what_is_taken_by_hand_comes_back(node: Node) -> None:
    write(node, "networks = ['a']\nports = ['127.0.0.1:0:80']")
    node.stead("apply", str(node.specs))
    node.stead("network", "create", "--label", "by=hand", "lab/net")
    node.stead("network", "connect", "--alias", "cache", "--ip", "", "lab/net", "web")
    node.stead("network", "connect", "lab/net", "peer")
    assert "well" in node.stead("exec", "peer", "busybox", "wget", "-qO-", "http://cache/")
    assert "is on network lab/net already" in node.stead("network", "connect", "lab/net", "web", code=1)
    (lab,) = inspect(node, "lab/net")
    assert lab["Source"] == "unmanaged" and lab["Labels"] == {"by": "hand"}
    assert member(lab, "default/web")["Aliases"] == ["cache"]
    assert member(lab, "default/web")["Counters"]["rx_packets"] > 0
    (a,) = inspect(node, "a")
    assert [port.partition(":80")[1] for port in member(a, "default/web")["Ports"]] == [":80"]
    assert node.stead("plan", str(node.specs)) == "nothing to do\n", "what is done by hand is nobody's drift"
    assert "used by" in node.stead("network", "rm", "lab/net", code=1)
    assert "belongs to source" in node.stead("network", "rm", "a", code=1)
    said = node.stead("network", "disconnect", "a", "web")
    assert "the agent connects it again" in said
    assert "is not on network default/a" in node.stead("plan", str(node.specs), code=2)
    node.stead("apply", str(node.specs))
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"
    for name in ("web", "peer"):
        node.stead("network", "disconnect", "lab/net", name)
    assert "lab/net" in node.stead("network", "prune", "-f", "--filter", "label=by=hand")
    assert "lab/net" not in node.stead("network", "ls")


def test_a_container_follows_the_one_whose_network_it_has(node: Node) -> None:
    side = "[container.side]\nimage = 'busy:1'\nnetwork_mode = 'container:web'\ncommand = ['sleep', '3600']\n"
    side += "stop_grace_period = '100ms'\n"
    write(node, "networks = ['a']", side)
    node.stead("apply", str(node.specs))

    def look() -> tuple[str, str, str]:
        words = ("busybox readlink /proc/self/ns/net; busybox hostname; cat /etc/resolv.conf",)
        inside = node.stead("exec", "side", "sh", "-c", *words)
        assert inside == node.stead("exec", "web", "sh", "-c", *words)
        rows = node.ps()
        return inside, rows["default/web"]["id"], rows["default/side"]["id"]

    first = look()
    assert "well" in node.stead("exec", "side", "busybox", "wget", "-qO-", "http://127.0.0.1/"), (
        "loopback is shared"
    )
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"
    write(node, "networks = ['a']\nenvironment = { A = '1' }", side)
    node.stead("apply", str(node.specs))
    again = look()
    assert again[0] != first[0] and again[1] != first[1], "web was replaced, and side is where it is"
    assert again[2] == first[2], "side is the same container, started anew"
    assert "well" in node.stead("exec", "side", "busybox", "wget", "-qO-", "http://127.0.0.1/")
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"
