"""The name server as containers see it: real sockets, records as shims write them, and dig beside it."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.linux import pidfd
from runtime.net.dns import server, wire
from tests.kernel.names_box import (
    DEADLINE,
    GATEWAY,
    NET,
    Upstream,
    addresses,
    asked,
    asked_by_tcp,
    looked_up,
    question,
    resolv_conf,
    resolving,
    saying,
    served,
    until,
)
from tests.kernel.net_box import MARKS, on_own_host, sh

pytestmark = MARKS


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
        assert looked_up("example.net") == ["192.0.2.3"]  # the silent one is asked last from now on
        asked = []
        while select.select([silent], [], [], 0)[0]:
            asked.append(silent.recv(512).lower())
        assert asked and not any(b"\x03net" in data for data in asked)
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
        assert names.service.defects([GATEWAY], names.service.state()) == ()
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: names.service.state() is None)
        (defect,) = names.service.defects([GATEWAY], names.service.state())
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
        (defect,) = names.service.defects([GATEWAY], names.service.state())
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


@on_own_host
def test_who_is_about_to_be_stopped_is_found_only_while_nobody_else_has_the_name() -> None:
    with served() as names:
        one, two = (names.container(f"shop/r{last}", last, aliases=("r",)) for last in (2, 3))
        names.start()
        assert looked_up("r") == ["10.66.0.2", "10.66.0.3"]
        names.service.leave(one)
        assert looked_up("r") == ["10.66.0.3"] and looked_up("r2") == ["10.66.0.2"]
        names.service.leave(two)
        assert looked_up("r") == ["10.66.0.2", "10.66.0.3"]
        shutil.rmtree(names.paths.live(one))
        names.service.leave(one)  # gone already
        assert looked_up("r") == ["10.66.0.3"]


@on_own_host
def test_broken_streams_neither_end_it_nor_stop_others() -> None:
    with served() as names:
        names.container("shop/web", 2)
        state = names.start()
        chance = random.Random(2)
        good = question("web", id=7)
        for _ in range(200):
            data = bytearray(len(good).to_bytes(2, "big") + good)
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            with socket.create_connection((GATEWAY, 53), DEADLINE, ("10.66.0.9", 0)) as sock:
                sock.sendall(data[: chance.randrange(len(data) + 1)])
        assert [addresses(item) for item in asked_by_tcp(question("web"))] == [["10.66.0.2"]]
        assert pidfd.is_alive(state.pid, state.start)


@on_own_host
def test_broken_answers_of_the_hosts_server_are_waited_over() -> None:
    chance = random.Random(3)

    def answers(data: bytes, tcp: bool) -> list[bytes]:
        good = saying(7)(data, tcp)
        named = [0, 1, 4, 5, *range(wire.HEADER, len(data))]  # id, how many questions, the question
        found = []
        for _ in range(20):
            made = bytearray(good)
            made[chance.choice(named)] ^= chance.randrange(1, 256)
            found += [bytes(made), good[: chance.randrange(len(data))], chance.randbytes(40)]
        return [*found, good]

    with resolving("nameserver 127.0.0.1\n"), served() as names:
        Upstream(answers)
        names.container("shop/web", 2)
        state = names.start()
        for number in range(50):
            assert looked_up(f"n{number}.example.org") == ["192.0.2.7"]
        assert pidfd.is_alive(state.pid, state.start)
