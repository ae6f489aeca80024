"""What somebody deletes of a network by hand while traffic runs is back within moments, on the kernel's own
word and not at the agent's next look; nobody is restarted, and an open connection goes on.

The box is an island (tests.crash.conftest): the whole ruleset and the host's settings are the test's own.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import namespaces
from runtime.net import links
from tests.crash import faults
from tests.crash.agents import Agent
from tests.crash.box import Box, until
from tests.crash.conftest import isle
from tests.e2e.conftest import Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

#: an address of the island that is not on any of our bridges
HOST, HOST6 = "198.51.100.1", "2001:db8:1::1"
#: seconds that a machine under load may take for one, and for half of them; the agent's own period is 10
SOON, MEDIAN = 15.0, 3.0

SPEC = """
[network.front]
enable_ipv6 = true

[network.back]
enable_ipv6 = true

[container.web]
image = "busy:1"
command = ["httpd", "-f", "-p", "[::]:80", "-h", "/www"]
networks = ["front"]
ports = ["{port}:80"]
stop_grace_period = "100ms"

[container.near]
image = "busy:1"
command = ["sleep", "10000"]
networks = ["front"]
stop_grace_period = "100ms"

[container.far]
image = "busy:1"
command = ["sleep", "10000"]
networks = ["back"]
stop_grace_period = "100ms"
"""


class Town:
    """An agent with three containers on two networks, and traffic by every way between them."""

    def __init__(self, box: Box) -> None:
        self.box, self.agent, self.port = box, Agent(box), Node.free_port()
        (box.specs / "shop.toml").write_text(SPEC.format(port=self.port))
        for words in (
            ("link", "add", "lan0", "type", "veth", "peer", "name", "lan1"),
            ("link", "set", "lan1", "up"),
            ("link", "set", "lan0", "up"),
            ("address", "add", f"{HOST}/24", "dev", "lan0"),
            ("address", "add", f"{HOST6}/64", "dev", "lan0", "nodad"),
        ):
            subprocess.run(["ip", *words], check=True)
        # where it is on, [::1] does not lead to containers: docs/networks.md
        links.write_sysctl("bridge/bridge-nf-call-ip6tables", "0", optional=True)

    def begin(self) -> None:
        self.agent.start()
        until(self.agent.converged, "the agent converges", 30.0)
        self.before = self.box.ps()
        self.netns = {
            name.rpartition("/")[2]: self.box.paths.netns(row["id"]) for name, row in self.before.items()
        }
        self.ground = faults.ground(str(self.box.paths.root.resolve()), self.netns)
        self.web = [
            text.split()[1].partition("/")[0]
            for text in faults.snapshot(self.ground)["web"]["addresses"]
            if text.startswith("eth0 ")
        ]
        try:
            until(lambda: self.broken() == [], "every way is open")
        except AssertionError:
            raise AssertionError(f"ways that are not open: {self.broken()}") from None
        self.whole = faults.snapshot(self.ground)

    def broken(self) -> list[str]:
        """The ways that are not open now."""
        found = []
        for name, (where, address, port) in self.ways().items():
            if not answers(where, address, port):
                found.append(name)
        return found

    def ways(self) -> dict[str, tuple[Path | None, str, int]]:
        near, far, web = (self.netns[name] for name in ("near", "far", "web"))
        found: dict[str, tuple[Path | None, str, int]] = {
            "host by 127.0.0.1": (None, "127.0.0.1", self.port),
            "host by ::1": (None, "::1", self.port),
            "host by its address": (None, HOST, self.port),
            "loopback in a container": (web, "127.0.0.1", 80),
        }
        for address in self.web:
            found[f"neighbour to {address}"] = (near, address, 80)
        for address in (HOST, HOST6):
            found[f"neighbour by {address}"] = (near, address, self.port)
            found[f"other network by {address}"] = (far, address, self.port)
            found[f"itself by {address}"] = (web, address, self.port)
        return found

    def quiet(self) -> None:
        """Until the agent has looked at all that it had heard."""
        seen = -1.0

        def still() -> bool:
            nonlocal seen
            before, seen = seen, self.agent.metric("stead_network_looks_total")
            return not select.select([], [], [], 0.6)[0] and before == seen

        until(still, "the agent looks no more")

    def comes_back(self, what: str) -> float:
        """All ways are open and the kernel has what it had. Returns the seconds until then."""
        try:
            return until(lambda: not self.broken() and faults.snapshot(self.ground) == self.whole, what, SOON)
        except AssertionError:
            missing = faults.difference(self.whole, faults.snapshot(self.ground))
            raise AssertionError(f"{what}: {self.broken()} {missing}") from None

    def repairs(self) -> float:
        return self.agent.metric("stead_repairs_total")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with isle(tmp_path_factory.mktemp("town")) as box:
        made = Town(box)
        try:
            made.begin()
            yield made
        finally:
            made.agent.end()


def answers(where: Path | None, address: str, port: int) -> bool:
    """Whether the web server says what it should to who asks from there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if where is None:
        client = socket.socket(family)
    else:
        with namespaces.in_netns(where):
            client = socket.socket(family)
    with client:
        client.settimeout(0.25)
        try:
            client.connect((address, port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            text = b""
            while piece := client.recv(4096):
                text += piece
        except OSError:
            return False
    return text.endswith(b"well\n")


class Connection:
    """From `near` to a server beside the program of `web`, open as long as the block lasts."""

    def __init__(self, town: Town) -> None:
        with namespaces.in_netns(town.netns["web"]):
            self._server = socket.create_server(("0.0.0.0", 7))
        with namespaces.in_netns(town.netns["near"]):
            self._client = socket.socket()
        self._client.settimeout(5.0)
        threading.Thread(target=self._echo, daemon=True).start()
        self._client.connect((next(item for item in town.web if ":" not in item), 7))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server.close()

    def _echo(self) -> None:
        peer, _ = self._server.accept()
        with peer:
            while data := peer.recv(100):
                peer.sendall(data)

    def lives(self) -> bool:
        try:
            self._client.sendall(b"?")
            return self._client.recv(100) != b""
        except TimeoutError:
            return False


def take(fault: faults.Fault) -> None:
    for command in fault.commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (fault, done.stderr)


def test_each_object_of_the_kernel_that_is_deleted_comes_back_and_nobody_is_restarted(town: Town) -> None:
    found = faults.faults(town.ground, town.whole, spared=["near"])  # of the kinds that `web` has
    assert len(found) > 60, "the list is made from what is there"
    names = " ".join(fault.name for fault in found)
    assert all(f"host: {kind} of stv" in names for kind in ("qdisc", "filter", "fixed MAC"))
    took: dict[str, float] = {}
    counted = town.repairs()
    with Connection(town) as connection:
        for fault in found:
            begin = time.monotonic()
            take(fault)
            town.comes_back(fault.name)
            took[fault.name] = time.monotonic() - begin
        until(connection.lives, "the connection that was open goes on", 30.0)
    for name, seconds in sorted(took.items(), key=lambda item: -item[1])[:10]:
        print(f"{seconds * 1e3:5.0f} ms  {name}")
    median = statistics.median(took.values())
    print(f"median {median * 1e3:.0f} ms of {len(took)}")
    assert median < MEDIAN, "without events it would be half of the agent's period"
    assert town.repairs() - counted >= len(found) - 5, "each is counted, but what came back beside another"
    assert town.box.ps() == town.before


def test_all_of_it_at_once_comes_back(town: Town) -> None:
    commands = [command for fault in faults.faults(town.ground, town.whole) for command in fault.commands]
    for command in commands:
        subprocess.run(command, capture_output=True)  # what it would take may be gone already
    seconds = town.comes_back("all of it")
    print(f"all of it: {seconds * 1e3:.0f} ms")
    assert town.box.ps() == town.before


RELOAD = """
flush ruleset
table inet filter {
  chain input { type filter hook input priority 0; policy accept; ct state invalid drop; }
}
"""


def test_a_firewall_that_flushes_and_loads_its_own_rules_keeps_them_beside_ours(town: Town) -> None:
    """As nftables.service does it, several times in a row."""
    for _ in range(5):
        subprocess.run(["nft", "-f", "-"], input=RELOAD, text=True, check=True)
        town.comes_back("our table")
    listed = subprocess.run(["nft", "list", "chain", "inet", "filter", "input"], capture_output=True)
    assert b"invalid drop" in listed.stdout
    subprocess.run(["nft", "delete", "table", "inet", "filter"], check=True)


def test_what_was_repaired_and_why_is_told_afterwards(town: Town) -> None:
    until(town.agent.converged, "what was begun before is done")
    before = town.agent.metric("stead_repairs_total", kind="firewall")
    subprocess.run(["nft", "delete", "table", *town.ground.main], check=True)
    town.comes_back("our table")
    until(lambda: town.agent.metric("stead_repairs_total", kind="firewall") > before, "it is counted")
    assert "its nftables table is gone" in town.box.well("history")


def test_nothing_is_looked_at_while_nothing_happens_and_what_others_do_is_passed_over(town: Town) -> None:
    until(town.agent.converged, "the agent is done")
    town.quiet()
    looks = town.agent.metric("stead_network_looks_total")
    add = "".join(f"add element ip theirs ports {{ {port} }}\n" for port in range(1, 1001))
    made = f"table ip theirs {{ set ports {{ type inet_service; }}; }}\n{add}"
    for _ in range(5):
        for text in (made, "delete table ip theirs"):
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        for verb in ("add", "delete"):
            subprocess.run(["ip", "route", verb, "203.0.113.0/24", "dev", "lan0"], check=True)
    subprocess.run(["nft", "delete", "table", *town.ground.main], check=True)
    town.comes_back("our table, in the middle of it")
    town.quiet()
    assert town.agent.metric("stead_network_looks_total") - looks <= 5, "for our own table, and our repair"


@pytest.mark.skipif(shutil.which("iptables") is None, reason="needs iptables")
def test_rules_that_let_us_pass_a_chain_of_iptables_that_drops_are_put_back(town: Town) -> None:
    """As an engine that starts, or a firewall of iptables that is loaded anew, leaves it."""

    def lets_pass() -> bool:
        shown = subprocess.run(["iptables", "-w", "-S", "FORWARD"], capture_output=True, text=True).stdout
        return shown.count("ACCEPT") == 2 and "-P FORWARD DROP" in shown and town.broken() == []

    try:
        for words in (("-P", "FORWARD", "DROP"), ("-F", "FORWARD"), ("-F", "FORWARD")):
            subprocess.run(["iptables", "-w", *words], check=True)
            until(lets_pass, "our rules are there", SOON)
    finally:
        subprocess.run(["iptables", "-w", "-P", "FORWARD", "ACCEPT"], check=True)
        subprocess.run(["iptables", "-w", "-F", "FORWARD"], check=True)
        town.quiet()
