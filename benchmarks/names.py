"""Effects: how fast a container is told the address of its neighbour, asked as its own programs ask."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks.rivals import Engine
from benchmarks.stead import NETWORK
from runtime.linux import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

#: rounds in which each engine is asked in turn, its questions one after the other, and seconds of as
#: many at once as come
ROUNDS, ONE_BY_ONE, SECONDS = 15, 200, 5
#: answers a second at which latencies of many clients are compared
RATE = 20_000
PEER = "peer"


def names(bench: Bench) -> None:
    """From inside of a container: one client that waits for each answer, and dnsperf with many at once."""
    with ExitStack() as stack:
        places = {"stead": stack.enter_context(of_stead(bench))}
        for rival in bench.rivals:
            places[rival.name] = stack.enter_context(neighbours(rival))
        values: dict[str, list[float]] = {engine: [] for engine in places}
        for _ in range(ROUNDS):
            for engine, place in places.items():
                values[engine] += latencies(*place)
        for engine, place in places.items():
            measure(bench, engine, *place, values[engine])


def measure(bench: Bench, engine: str, netns: Path, server: str, values: list[float]) -> None:
    what, ours = "name of a neighbour, one client", engine == "stead"
    target = 70.0 if ours else None
    bench.add(what, engine, "us", values, target=target, note="median over all questions")
    bench.add(f"{what}, p99", engine, "us", [sorted(values)[len(values) * 99 // 100]])
    if shutil.which("dnsperf") is None:
        print("without dnsperf: not installed")
        return
    most, _ = load(netns, server)
    reached = float(RATE) if ours else None
    bench.add("names, answers a second", engine, "1/s", [most], target=reached, note="dnsperf -c 8")
    rate, values = load(netns, server, "-Q", str(RATE), "-v")
    note = f"dnsperf -c 8 -Q {RATE}, {rate:.0f} answers a second"
    p50, p99 = (sorted(values)[len(values) * part // 100] for part in (50, 99))
    bench.add(f"names at {RATE} a second, p50", engine, "ms", [p50], note=note)
    slowest = 2.0 if ours else None
    bench.add(f"names at {RATE} a second, p99", engine, "ms", [p99], target=slowest, note="the same run")


def latencies(netns: Path, server: str) -> list[float]:
    """Microseconds of each of many questions for the address of PEER."""
    name = bytes([len(PEER)]) + PEER.encode() + b"\0" + struct.pack("!HH", 1, 1)
    with namespaces.in_netns(netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    values = []
    with sock:
        sock.settimeout(10.0)
        sock.connect((server, 53))
        for number in range(ONE_BY_ONE + 20):
            query = struct.pack("!6H", number, 0x100, 1, 0, 0, 0) + name
            begin = time.perf_counter()
            sock.send(query)
            answer = sock.recv(512)
            values.append((time.perf_counter() - begin) * 1e6)
            assert answer[:2] == query[:2] and answer[7] == 1, answer
    return values[20:]


def load(netns: Path, server: str, *options: str) -> tuple[float, list[float]]:
    """(answers a second, ms of each answer where `options` have -v) of dnsperf. What is lost is an error."""
    with tempfile.NamedTemporaryFile("w", suffix=".questions") as questions:
        questions.write(f"{PEER} A\n")
        questions.flush()
        words = ["nsenter", f"--net={netns}", "dnsperf", "-s", server, "-d", questions.name]
        words += ["-c", "8", "-l", str(SECONDS), *options]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    values = [float(line.split()[-1]) * 1e3 for line in lines if line.startswith("> ")]
    found = {key.strip(): value.split() for key, _, value in (line.partition(":") for line in lines)}
    assert found["Queries lost"][0] == "0", done.stdout
    return float(found["Queries per second"][0]), values


@contextmanager
def of_stead(bench: Bench) -> Iterator[tuple[Path, str]]:
    """Two containers. Yields the network namespace of the one that asks, and the server that it asks."""
    with closing(bench.stead.open()) as runtime:
        for name in ("asker", PEER):
            runtime.create_container(bench.stead.request(name))
            runtime.start_container(f"bench/{name}")
        id = next(item.id for item in runtime.observe().containers.values() if item.name == "bench/asker")
        server = next(item.gateway for item in runtime.fabric.networks() if item.name == NETWORK)
        yield runtime.paths.netns(id), server
        for name in ("asker", PEER):
            runtime.remove_container(f"bench/{name}")


@contextmanager
def neighbours(rival: Engine) -> Iterator[tuple[Path, str]]:
    """Two containers on a network of their own. Yields as `of_stead`."""
    rival.call("network", "create", "names")
    try:
        for name in ("asker", PEER):
            rival.run(name, "--network", "names")
        pid = rival.pid("asker")
        lines = Path(f"/proc/{pid}/root/etc/resolv.conf").read_text().splitlines()
        server = next(line.split()[1] for line in lines if line.startswith("nameserver"))
        yield Path(f"/proc/{pid}/ns/net"), server
        rival.remove(["asker", PEER])
    finally:
        rival.call("network", "rm", "names")
