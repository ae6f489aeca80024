"""The name server as containers see it: real sockets, records as shims write them, and dig beside it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from runtime.linux import pidfd
from runtime.net.dns import server, wire
from runtime.net.dns.documents import State
from runtime.net.dns.service import NameService
from runtime.net.dns.zone import Endpoint, Member, Network
from runtime.paths import Paths, write_atomically
from tests.kernel.net_box import MARKS, Machine, on_own_host, sh

pytestmark = MARKS

SUBNET, GATEWAY = "10.66.0.0/24", "10.66.0.1"
NET = Network("shop/net", (GATEWAY,), (ip_network(SUBNET),))
DEADLINE = 20.0


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
        self.service.networks([])


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


@on_own_host
def test_a_container_is_known_as_soon_as_its_shim_says_that_it_runs() -> None:
    with served() as names:
        web = names.container("shop/web", 2, aliases=("www",))
        names.start()
        assert looked_up("web") == looked_up("WwW") == looked_up("web.shop") == ["10.66.0.2"]
        for number in range(50):
            db = names.container(f"shop/db{number}", 3)
            assert looked_up(f"db{number}") == ["10.66.0.3"]  # at once: never from before its start
            names.state(db, "backoff")
            assert looked_up(f"db{number}") == wire.NXDOMAIN
            names.state(db, "running", "starting")
            assert looked_up(f"db{number}") == ["10.66.0.3"]
            names.state(db, "running", "unhealthy")
            assert looked_up(f"db{number}") == wire.NXDOMAIN
            shutil.rmtree(names.paths.live(db))
            assert looked_up(f"db{number}") == wire.NXDOMAIN
        assert looked_up("web", "10.66.0.2") == ["10.66.0.2"] and names.service.is_told(web)


@on_own_host
def test_all_who_have_a_name_are_answered_in_changing_order() -> None:
    with served() as names:
        for last in (2, 3, 4):
            names.container(f"shop/r{last}", last, aliases=("r",))
        names.start()
        first = set()
        for _ in range(200):
            answer = asked(question("r"))
            assert answer is not None and addresses(answer) == ["10.66.0.2", "10.66.0.3", "10.66.0.4"]
            at = wire.HEADER + 3 + 4
            first.add(answer[at + 12 : at + 16])
        assert len(first) == 3


@on_own_host
def test_nobody_from_another_network_is_answered() -> None:
    with served() as names:
        names.container("shop/web", 2)
        names.start()
        sh("ip", "address", "add", "10.67.0.1/24", "dev", "br0")
        assert asked(question("web"), "10.67.0.1", timeout=0.3) is None
        assert looked_up("web") == ["10.66.0.2"]


@on_own_host
def test_by_tcp_several_questions_are_answered_and_strangers_hear_nothing() -> None:
    with served() as names:
        names.container("shop/web", 2)
        names.start()
        answers = asked_by_tcp(question("web", id=1), question("nobody", id=2), question("web.shop", id=3))
        assert [addresses(item) for item in answers] == [["10.66.0.2"], wire.NXDOMAIN, ["10.66.0.2"]]
        assert asked_by_tcp(b"no question") == [b""]


@on_own_host
def test_what_is_not_ours_is_asked_of_the_hosts_servers_as_they_are_now() -> None:
    with resolving("nameserver 127.0.0.53\n"), served() as names:
        stub, other = Upstream(saying(1), "127.0.0.53"), Upstream(saying(2), "127.0.0.2")
        names.container("shop/web", 2)
        names.start()
        assert looked_up("example.org") == ["192.0.2.1"]
        resolv_conf("nameserver 127.0.0.2\n")
        assert looked_up("example.org") == ["192.0.2.2"]
        assert looked_up("single") == wire.NXDOMAIN and len(stub.seen) == len(other.seen) == 1
        resolv_conf(f"nameserver {GATEWAY}\n")  # ourselves: not round and round
        assert looked_up("example.org") == wire.SERVFAIL


@on_own_host
def test_a_server_that_is_silent_absent_or_failing_is_passed_over() -> None:
    with resolving("nameserver 127.0.0.9\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n"), served() as names:

        def fails(data: bytes, tcp: bool) -> bytes:
            return wire.respond(wire.parse(data), wire.SERVFAIL, own=False)

        Upstream(fails, "127.0.0.1")
        Upstream(saying(3), "127.0.0.2")
        names.container("shop/web", 2)
        names.start()
        assert looked_up("example.org") == ["192.0.2.3"]  # 127.0.0.9: nobody listens
        (silent := socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("127.0.0.10", 53))
        resolv_conf("nameserver 127.0.0.10\nnameserver 127.0.0.2\n")
        assert looked_up("example.org") == ["192.0.2.3"]
        begin = time.monotonic()
        assert looked_up("example.net") == ["192.0.2.3"]  # the silent one is asked last from now on
        assert time.monotonic() - begin < 1.0
        silent.close()


@on_own_host
def test_answers_that_are_forged_or_of_another_question_are_waited_over() -> None:
    with resolving("nameserver 127.0.0.1\n"), served() as names:

        def answers(data: bytes, tcp: bool) -> list[bytes]:
            other = question("evil.org", id=int.from_bytes(data[:2], "big"))
            forged = bytes([data[0] ^ 1]) + saying(66)(data, tcp)[1:]
            return [forged, saying(66)(other, tcp), data, b"", saying(7)(data, tcp)]

        Upstream(answers)
        names.container("shop/web", 2)
        names.start()
        assert looked_up("example.org") == ["192.0.2.7"]


@on_own_host
def test_long_answers_come_by_tcp_and_edns_reaches_the_server() -> None:
    with resolving("nameserver 127.0.0.1\n"), served() as names:
        upstream = Upstream(saying(1, 60))
        names.container("shop/web", 2)
        names.start()
        answer = asked(question("long.org"))
        assert answer is not None and answer[2] & 2 and len(answer) <= 512
        (whole,) = asked_by_tcp(question("long.org"))
        assert not whole[2] & 2 and len(addresses(whole)) == 60  # type: ignore[arg-type]
        opt = b"\0" + struct.pack("!HHIH", wire.OPT, 4096, 0x8000, 4) + b"\0\x0a\0\0"
        data = question("edns.org")
        asked(data[:11] + b"\1" + data[12:] + opt)
        assert upstream.seen[-1].endswith(opt)


@on_own_host
def test_servers_of_a_container_are_asked_for_it_alone() -> None:
    with resolving("nameserver 127.0.0.1\n"), served() as names:
        Upstream(saying(1))
        Upstream(saying(2), "127.0.0.2")
        names.container("shop/web", 2)
        names.container("shop/own", 3, dns=("127.0.0.2",))
        names.start()
        assert looked_up("example.org", "10.66.0.2") == ["192.0.2.1"]
        assert looked_up("example.org", "10.66.0.3") == ["192.0.2.2"]


@on_own_host
def test_one_asker_cannot_use_up_what_the_others_need() -> None:
    with resolving("nameserver 127.0.0.1\n"), served() as names:
        upstream = Upstream(lambda data, tcp: saying(1)(data, tcp) if b"answered" in data else None)
        names.container("shop/web", 2)
        names.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as greedy:
            greedy.bind(("10.66.0.2", 0))
            for number in range(1000):
                greedy.sendto(question(f"n{number}.org", id=number), (GATEWAY, 53))
            greedy.settimeout(DEADLINE)
            assert wire.rcode_of(greedy.recv(512)) == wire.SERVFAIL
            assert looked_up("answered.org", "10.66.0.3") == ["192.0.2.1"]
        assert len({data[12:] for data in upstream.seen}) <= 258


@on_own_host
def test_broken_packets_neither_end_it_nor_make_it_lie() -> None:
    with served() as names:
        names.container("shop/web", 2)
        state = names.start()
        chance = random.Random(1)
        good = question("web", id=7)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("10.66.0.9", 0))
            for number in range(5000):
                data = bytearray(good)
                for _ in range(chance.randrange(1, 6)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                sock.sendto(bytes(data[: chance.randrange(len(data) + 1)]), (GATEWAY, 53))
                if number % 100 == 0:
                    assert looked_up("web", "10.66.0.3") == ["10.66.0.2"]
        assert pidfd.is_alive(state.pid, state.start)


@on_own_host
def test_a_killed_server_is_a_defect_until_it_is_ensured_and_ends_with_the_last_network() -> None:
    with served() as names:
        names.container("shop/web", 2)
        first = names.start()
        assert names.service.defects(GATEWAY, names.service.state()) == ()
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: names.service.state() is None)
        (defect,) = names.service.defects(GATEWAY, names.service.state())
        assert defect.kind == "names"
        second = names.start()
        assert second.pid != first.pid and looked_up("web") == ["10.66.0.2"]
        assert names.start() == second
        names.service.networks([])
        assert not pidfd.is_alive(second.pid, second.start) and names.service.state() is None


@on_own_host
def test_a_server_whose_record_is_removed_writes_it_again() -> None:
    with served() as names:
        names.container("shop/web", 2)
        state = names.start()
        (names.paths.run / "names" / "state.json").unlink()
        assert until(names.service.state) == state
        (names.paths.run / "names" / "state.json").unlink()
        assert names.start() == state


@on_own_host
def test_it_belongs_to_nobody_and_has_no_power_but_to_bind_its_port() -> None:
    with served() as names:
        names.container("shop/web", 2)
        state = names.start()
        status = Path(f"/proc/{state.pid}/status").read_text()
        assert "\nPPid:\t" in status and f"\nPPid:\t{os.getpid()}\n" not in status
        assert "\nCapEff:\t0000000000000400\n" in status and "\nCapBnd:\t0000000000000400\n" in status
        assert "\nNoNewPrivs:\t1\n" in status and os.getsid(state.pid) != os.getsid(0)
        assert "stead.slice/names" in Path(f"/proc/{state.pid}/cgroup").read_text()


@on_own_host
def test_a_bridge_that_goes_and_comes_back_needs_no_new_server() -> None:
    with served() as names:
        names.container("shop/web", 2)
        state = names.start()
        sh("ip", "link", "delete", "br0")
        sh("ip", "link", "add", "br0", "type", "bridge")
        for last in (1, 9):
            sh("ip", "address", "add", f"10.66.0.{last}/24", "dev", "br0")
        sh("ip", "link", "set", "br0", "up")
        assert looked_up("web") == ["10.66.0.2"] and names.start() == state


@on_own_host
def test_a_bridge_that_stays_away_gives_its_address_free() -> None:
    with served() as names:
        names.service.networks([replace(NET, bridge="br0")])
        names.container("shop/web", 2)
        state = names.start()
        sh("ip", "link", "delete", "br0")
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
            other.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND

            def is_free() -> bool:
                try:
                    other.bind((GATEWAY, 53))
                except OSError:
                    return False
                return True

            until(is_free)
        sh("ip", "link", "add", "br0", "type", "bridge")
        for last in (1, 9):
            sh("ip", "address", "add", f"10.66.0.{last}/24", "dev", "br0")
        sh("ip", "link", "set", "br0", "up")
        until(lambda: names.service.ensure([GATEWAY]) == {})
        assert looked_up("web") == ["10.66.0.2"] and names.service.state() == state


@on_own_host
def test_an_address_that_somebody_has_is_said_and_taken_when_it_is_free() -> None:
    with served() as names:
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind((GATEWAY, 53))
        names.container("shop/web", 2)
        assert names.service.ensure([GATEWAY]) == {GATEWAY: "cannot listen: address already in use"}
        (defect,) = names.service.defects(GATEWAY, names.service.state())
        assert "address already in use" in defect.text
        taken.close()
        until(lambda: names.service.ensure([GATEWAY]) == {})
        assert looked_up("web") == ["10.66.0.2"]


@on_own_host
def test_it_ends_when_there_is_no_container_for_a_while() -> None:
    with served() as names:
        web = names.container("shop/web", 2)
        state = names.start()
        shutil.rmtree(names.paths.live(web))
        begin = time.monotonic()
        until(lambda: not pidfd.is_alive(state.pid, state.start))
        assert time.monotonic() - begin > server.IDLE / 2


@pytest.mark.skipif(shutil.which("dig") is None, reason="needs dig (bind9-dnsutils)")
@on_own_host
def test_dig_reads_every_kind_of_answer() -> None:
    def dig(*words: str) -> str:
        done = subprocess.run(
            ["dig", "-b", "10.66.0.9", f"@{GATEWAY}", "+tries=1", *words], capture_output=True, text=True
        )
        assert "WARNING" not in done.stdout and "malformed" not in done.stdout, done.stdout
        return done.stdout

    with resolving("nameserver 127.0.0.1\n"), served() as names:
        Upstream(saying(1, 60))
        names.container("shop/web", 2, aliases=("www",))
        names.start()
        assert "10.66.0.2\n" in dig("web", "A") and ";WeB." in dig("WeB", "A")
        for type in ("AAAA", "MX", "TXT", "SRV", "CAA", "HTTPS", "NS", "SOA", "CNAME"):
            text = dig("web", type)
            assert "status: NOERROR" in text and "ANSWER: 0" in text, type
        assert "status: NXDOMAIN" in dig("nobody", "A")
        assert "web.shop.\n" in dig("-x", "10.66.0.2") and "NXDOMAIN" in dig("-x", "10.66.0.77")
        assert "Transfer failed" in dig("web", "AXFR")
        assert "status: REFUSED" in dig("version.bind", "TXT", "CH")
        assert "status: BADVERS" in dig("web", "+edns=1", "+noednsnegotiation")
        assert "status: NOTIMP" in dig("web", "+opcode=status", "+noedns")
        assert "flags: do" in dig("web", "+dnssec") and "10.66.0.2" in dig("web", "+tcp")
        assert "127.0.0.1\n" in dig("localhost") and "::1\n" in dig("localhost", "AAAA")
        text = dig("long.org", "+bufsize=512")
        assert "Truncated, retrying in TCP mode" in text and "ANSWER: 60" in text
