"""A name server on a bridge of its own, with records as shims write them, and what it asks and is asked."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from runtime.net.dns import wire
from runtime.net.dns.documents import State
from runtime.net.dns.service import NameService
from runtime.net.dns.zone import Endpoint, Member, Network
from runtime.paths import Paths, write_atomically
from tests.kernel.net_box import Machine, sh

SUBNET, GATEWAY = "10.66.0.0/24", "10.66.0.1"
NET = Network("shop/net", (GATEWAY,), (ip_network(SUBNET),))
DEADLINE = 30.0


class Names:
    """A name server on a bridge of its own; askers are sockets on addresses of the bridge's network."""

    def __init__(self, machine: Machine) -> None:
        self.paths = Paths(machine.directory / "root", machine.directory / "run")
        self.paths.make()
        sh("ip", "link", "add", "br0", "type", "bridge")
        for last in range(1, 10):
            sh("ip", "address", "add", f"10.66.0.{last}/24", "dev", "br0")
        sh("ip", "link", "set", "br0", "up")
        self.service = NameService(self.paths)
        self.service.networks([NET])

    def container(
        self, name: str, last: int, *, aliases: tuple[str, ...] = (), dns: tuple[str, ...] = ()
    ) -> str:
        id = secrets.token_hex(16)
        self.paths.live(id).mkdir()
        endpoint = Endpoint("shop/net", (f"10.66.0.{last}",), aliases)
        self.service.member(Member(id, name, (endpoint,), "", dns))
        self.state(id)
        return id

    def state(self, id: str, phase: str = "running", health: str = "none") -> None:
        text = json.dumps({"v": 1, "phase": phase, "health": health})
        write_atomically(self.paths.live(id) / "state.json", text.encode(), durable=False)

    def start(self) -> State:
        assert self.service.ensure([GATEWAY]) == {}
        state = self.service.state()
        assert state is not None
        return state

    def end(self) -> None:
        """One that was started beside another may still be about to find out that it is one too many."""
        self.service.networks([])
        until(lambda: not self._servers())

    def _servers(self) -> list[str]:
        run = os.fsencode(self.paths.run.resolve())
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if run in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(pid)
        return found


@contextlib.contextmanager
def served() -> Iterator[Names]:
    with Machine() as machine:
        names = Names(machine)
        try:
            yield names
        finally:
            names.end()


def question(name: str, type: int = wire.A, id: int | None = None) -> bytes:
    encoded = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"
    number = random.getrandbits(16) if id is None else id
    return struct.pack("!6H", number, wire.RD, 1, 0, 0, 0) + encoded + struct.pack("!HH", type, 1)


def asked(data: bytes, source: str = "10.66.0.9", *, timeout: float = DEADLINE) -> bytes | None:
    """The answer by UDP; None when there is none in time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.connect((GATEWAY, 53))
        sock.settimeout(timeout)
        try:
            sock.send(data)
            return sock.recv(65535)
        except TimeoutError:
            return None


def asked_by_tcp(*messages: bytes, source: str = "10.66.0.9") -> list[bytes]:
    with socket.create_connection((GATEWAY, 53), DEADLINE, (source, 0)) as sock, sock.makefile("rb") as file:
        sock.sendall(b"".join(len(item).to_bytes(2, "big") + item for item in messages))
        return [file.read(int.from_bytes(file.read(2), "big")) for _ in messages]


def looked_up(name: str, source: str = "10.66.0.9") -> list[str] | int:
    """The addresses of a name, or the code of the refusal."""
    answer = asked(question(name), source)
    assert answer is not None
    return addresses(answer)


def addresses(answer: bytes) -> list[str] | int:
    code, count = wire.rcode_of(answer), int.from_bytes(answer[6:8], "big")
    if code:
        return code
    at = answer.index(b"\0", wire.HEADER) + 5
    found = []
    for _ in range(count):
        assert answer[at : at + 2] == b"\xc0\x0c"
        at += 16
        found.append(socket.inet_ntoa(answer[at - 4 : at]))
    return sorted(found)


class Upstream:
    """A server of the world: `answer` makes of a question, and whether it came by TCP, what is sent back."""

    def __init__(
        self, answer: Callable[[bytes, bool], bytes | list[bytes] | None], address: str = "127.0.0.1"
    ) -> None:
        self.seen: list[bytes] = []
        self.answer, self.address = answer, address
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((address, 53))
        self.tcp = socket.create_server((address, 53))
        for work in (self._udp, self._tcp):
            threading.Thread(target=work, daemon=True).start()

    def _udp(self) -> None:
        while True:
            data, source = self.udp.recvfrom(65535)
            self.seen.append(data)
            answer = self.answer(data, False) or []
            for packet in answer if isinstance(answer, list) else [answer]:
                self.udp.sendto(packet, source)

    def _tcp(self) -> None:
        while True:
            peer, _ = self.tcp.accept()
            with peer, peer.makefile("rb") as file:
                data = file.read(int.from_bytes(file.read(2), "big"))
                self.seen.append(data)
                if isinstance(answer := self.answer(data, True), bytes):
                    peer.sendall(len(answer).to_bytes(2, "big") + answer)


def saying(last: int, count: int = 1) -> Callable[[bytes, bool], bytes]:
    """Addresses 192.0.2.`last` and on, as many as fit; more than 512 bytes are cut off by UDP."""

    def answer(data: bytes, tcp: bool) -> bytes:
        records = [wire.Record(wire.A, bytes((192, 0, 2, last + n))) for n in range(count)]
        limit = wire.MAX_MESSAGE if tcp else 0
        return wire.respond(wire.parse(data), wire.NOERROR, records, own=False, limit=limit)

    return answer


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between two looks
    return found


def resolv_conf(text: str) -> None:
    """The host's, in this mount namespace."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"resolv.{os.getpid()}"
    if not path.exists():
        path.write_text(text)
        sh("mount", "--make-rprivate", "/")
        sh("mount", "--bind", str(path), os.path.realpath("/etc/resolv.conf"))
    path.write_text(text)


@contextlib.contextmanager
def resolving(text: str) -> Iterator[None]:
    """Before the server starts: it has our mount namespace."""
    try:
        resolv_conf(text)
        yield
    finally:
        (Path(os.environ.get("TMPDIR", "/tmp")) / f"resolv.{os.getpid()}").unlink()
