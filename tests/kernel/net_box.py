"""A host of its own for each test of networks: the body runs as a program in new network and mount
namespaces, another namespace is the world outside. Nothing is left when the program ends.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from runtime.database import Database
from runtime.linux import namespaces
from runtime.net import addresses, links, records
from runtime.net.dns.service import NameService
from runtime.net.fabric import NET_SCHEMA, Fabric
from runtime.paths import Paths
from runtime.shim import messages
from runtime.shim.messages import State
from runtime.wishes import Attachment, NetworkRequest
from specs.values import PortBinding

ROOT = Path(__file__).resolve().parents[2]
BODIES: dict[str, Callable[[], None]] = {}
OUTSIDE, HOST = "198.51.100.2", "198.51.100.1"
OUTSIDE6, HOST6 = "2001:db8::2", "2001:db8::1"
WAIT = 1.0
MARKS = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft"),
]


def on_own_host(body: Callable[[], None]) -> Callable[[], None]:
    BODIES[body.__name__] = body
    module = body.__module__

    @functools.wraps(body)
    def run() -> None:
        code = f"import {module}; from tests.kernel import net_box; net_box.BODIES[{body.__name__!r}]()"
        command = ["unshare", "--net", "--mount", sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def sh(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Machine:
    """A host with a way to the world, and fabrics on it."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.outside = self.directory / "outside"
        sh("ip", "link", "set", "lo", "up")
        namespaces.create_netns(self.outside)
        self.stack.callback(namespaces.delete_netns, self.outside)
        sh("ip", "link", "add", "up0", "type", "veth", "peer", "name", "world0")
        sh("ip", "link", "set", "world0", "netns", str(self.outside))
        with namespaces.in_netns(self.outside):
            sh("ip", "address", "add", f"{OUTSIDE}/24", "dev", "world0")
            sh("ip", "link", "set", "world0", "up")
        sh("ip", "address", "add", f"{HOST}/24", "dev", "up0")
        sh("ip", "link", "set", "up0", "up")
        sh("ip", "route", "add", "default", "via", OUTSIDE)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def ipv6(self) -> None:
        """The host and the world outside have addresses of IPv6, too."""
        with namespaces.in_netns(self.outside):
            sh("ip", "address", "add", f"{OUTSIDE6}/64", "dev", "world0", "nodad")
        sh("ip", "address", "add", f"{HOST6}/64", "dev", "up0", "nodad")
        sh("ip", "route", "add", "default", "via", OUTSIDE6)

    def fabric(
        self, name: str = "one", pool: str = "10.88.0.0/16", *, names: bool = False, shortcut: bool = False
    ) -> Node:
        """`names`: with a name server, which ends with the last network; `shortcut`: as the agent's."""
        paths = Paths(self.directory / name / "root", self.directory / name / "run")
        node = Node(paths, pool, names, shortcut)
        self.stack.callback(node.close)
        return node


class Node:
    """One fabric with containers that are namespaces only."""

    def __init__(self, paths: Paths, pool: str, names: bool = False, shortcut: bool = False) -> None:
        paths.make()
        self.paths = paths
        self.service = NameService(paths) if names else None
        self.database = Database(paths.database, (NET_SCHEMA,))
        self.fabric = Fabric(paths, self.database, pool=pool, service=self.service, shortcut=shortcut)
        self.netns: dict[str, Path] = {}

    def close(self) -> None:
        if self.service is not None:
            self.service.networks([])
        for path in self.netns.values():
            namespaces.delete_netns(path)
        self.fabric.close()
        self.database.close()

    def network(self, name: str, **fields: object) -> None:
        self.fabric.create_network(NetworkRequest(name, "test", "f", **fields))  # type: ignore[arg-type]

    def container(
        self,
        name: str,
        *networks: str | Attachment,
        ports: tuple[PortBinding, ...] = (),
        service: str = "",
    ) -> str:
        id = secrets.token_hex(16)
        attachments = [Attachment(item) if isinstance(item, str) else item for item in networks]
        with self.database.write() as connection:
            self.fabric.reserve(connection, id, name, attachments, ports, service)
        self.start(id)
        return id

    def ready(self, id: str, health: str = "none", phase: str = "running") -> None:
        """What its shim would write."""
        state = State(id=id, phase=phase, health=health)
        (self.paths.live(id) / "state.json").write_bytes(messages.encode(messages.state_document(state)))

    def remove(self, id: str) -> None:
        self.fabric.deactivate(id)
        self.fabric.publish(only=id)
        self.fabric.detach(id)
        with self.database.write() as connection:
            self.fabric.release(connection, id)

    def ports(self, id: str) -> list[PortBinding]:
        """As published."""
        return list(self.fabric.observe().ports.get(id, ()))

    def start(self, id: str) -> None:
        self.paths.live(id).mkdir(parents=True)
        self.netns[id] = self.paths.netns(id)
        namespaces.create_netns(self.netns[id])
        self.fabric.check_ports(id)
        self.fabric.attach(id, self.netns[id])
        self.fabric.activate(id)
        self.fabric.publish(only=id)
        self.wait_for_queues(id)

    def leases(self, id: str) -> dict[str, records.Lease]:
        return {item.network: item for item in records.read_leases(self.database.read(), container=id)}

    def wait_for_queues(self, id: str) -> None:
        root = str(self.paths.root.resolve())
        for network, lease in self.leases(id).items():
            host = addresses.link_name(root, id, network)
            if links.index_of(host):
                wait_for_queue(None, host)
                wait_for_queue(self.netns[id], lease.inside)

    def settle(self, id: str, before: Sequence[Attachment], after: Sequence[Attachment]) -> None:
        """Change its networks while it runs."""
        with self.database.write() as connection:
            gone = self.fabric.settle(connection, id, "p/x", before, after)
        self.fabric.drop_links(gone, self.netns[id])
        self.fabric.attach(id, self.netns[id])
        self.fabric.publish()
        self.wait_for_queues(id)

    def inside(self, id: str, *command: str) -> str:
        with namespaces.in_netns(self.netns[id]):
            return sh(*command)

    def gateway(self, id: str) -> str:
        """The host's address on the first network of a container."""
        network = self.fabric.addresses(id)[0][0]
        return next(record.gateway for record in self.fabric.networks() if record.name == network)

    def address6(self, id: str) -> str:
        return records.read_leases(self.database.read(), container=id)[0].address6

    def address(self, id: str) -> str:
        return self.fabric.addresses(id)[0][1]

    def defects(self) -> set[str]:
        """Kinds; what they say is shown where the test fails."""
        found = self.fabric.observe()
        everywhere = [*found.firewall, *(d for net in found.networks for d in net.defects)]
        everywhere += [defect for given in found.containers.values() for defect in given]
        for defect in everywhere:
            print("defect", defect.kind, defect.text)
        return {defect.kind for defect in everywhere}


def port_of(node: Node, id: str) -> str:
    """The host's end of a container's pair, of one that is on one network."""
    (network,) = node.leases(id)
    return addresses.link_name(str(node.paths.root.resolve()), id, network)


def open_socket(
    netns: Path | None, kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET
) -> socket.socket:
    if netns is None:
        made = socket.socket(family, kind)
    else:
        with namespaces.in_netns(netns):
            made = socket.socket(family, kind)
    made.settimeout(WAIT)
    return made


def serve(
    netns: Path | None, port: int, kind: socket.SocketKind = socket.SOCK_STREAM, *, answer_with: str = ""
) -> None:
    """Answer each peer with its own address, or always the same, until the program ends. Both families."""
    server = open_socket(netns, kind, socket.AF_INET6)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.settimeout(None)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        server.listen(16)

    def said(address: str) -> bytes:
        return (answer_with or address.removeprefix("::ffff:")).encode()

    def answer() -> None:
        while True:
            if kind == socket.SOCK_STREAM:
                peer, address = server.accept()
                peer.sendall(said(address[0]))
                peer.close()
            else:
                _, address = server.recvfrom(100)
                server.sendto(said(address[0]), address)

    threading.Thread(target=answer, daemon=True).start()


def ask(
    netns: Path | None, address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM
) -> str | None:
    """What the server there sees as our address; None when it cannot be reached."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with open_socket(netns, kind, family) as client:
        try:
            client.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                client.send(b"?")
            return client.recv(100).decode()
        except OSError:
            return None


def wait_for_queue(netns: Path | None, link: str) -> None:
    """For some ms after a link came up the kernel drops what it sends: net/core/link_watch.c starts its queue
    from a work queue, then its state is told to be up. TCP would try again after a second only.
    """
    deadline = time.monotonic() + 30 * WAIT
    command = ("ip", "-o", "link", "show", "dev", link)
    while True:
        if netns is None:
            text = sh(*command)
        else:
            with namespaces.in_netns(netns):
                text = sh(*command)
        if "state UP" in text:
            return
        assert time.monotonic() < deadline, text


def comes_to_answer(
    netns: Path | None, address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM
) -> str | None:
    """As `ask`, again until the deadline: after a repair the first packets may be lost (wait_for_queue)."""
    deadline = time.monotonic() + 30 * WAIT
    while (answer := ask(netns, address, port, kind)) is None and time.monotonic() < deadline:
        pass
    return answer


TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
