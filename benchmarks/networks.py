"""Effects: how long it takes to tie a container to a bridge, and to lease the 4,000th address on it."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.rivals import Engine
from runtime.database import Database
from runtime.linux import namespaces
from runtime.net import leases, records
from runtime.net.fabric import NET_SCHEMA
from runtime.wishes import Attachment, NetworkRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

NETWORK, RUNS, MANY = "bench/more", 20, 4000


def networks(bench: Bench) -> None:
    """Of a running container: the link alone, and all of `network connect`; then leases alone."""
    with closing(bench.stead.open()) as runtime:
        runtime.create_network(NetworkRequest(NETWORK, "bench", "f", ipv6=True))
        runtime.create_container(bench.stead.request("tied"))
        runtime.start_container("bench/tied")
        (id,) = (item.id for item in runtime.observe().containers.values() if item.name == "bench/tied")
        links, whole = [], []
        for _ in range(RUNS + 1):
            begin = time.perf_counter()
            runtime.containers.connect("bench/tied", Attachment(NETWORK))
            whole.append((time.perf_counter() - begin) * 1e3)
            runtime.containers.disconnect("bench/tied", NETWORK)
        with tempfile.TemporaryDirectory() as directory:
            netns = Path(directory) / "netns"
            for _ in range(RUNS + 1):
                namespaces.create_netns(netns)
                runtime.fabric.detach(id)
                begin = time.perf_counter()
                runtime.fabric.attach(id, netns)
                links.append((time.perf_counter() - begin) * 1e3)
                namespaces.delete_netns(netns)
        runtime.remove_container("bench/tied")
        runtime.remove_network(NETWORK)
    bench.add("attach a container to a bridge", "stead", "ms", links[1:], target=10.0)
    bench.add("connect to one more network, dual stack", "stead", "ms", whole[1:])
    for rival in bench.rivals:
        bench.add("connect to one more network, dual stack", rival.name, "ms", connected(rival))
    first, late = leased()
    bench.add("lease an address, the first 100", "stead", "ms", first)
    bench.add(f"lease an address, the last 100 of {MANY}", "stead", "ms", late)


def connected(rival: Engine) -> list[float]:
    """Whole commands, less what a command that does nothing takes: the engine's part."""
    rival.call("network", "create", "--ipv6", "--subnet", "fd00:be::/64", "more")
    rival.run("tied")
    values = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        rival.call("network", "connect", "more", "tied")
        middle = time.perf_counter()
        rival.call("version", "--format", "x")
        nothing = time.perf_counter() - middle
        values.append((middle - begin - nothing) * 1e3)
        rival.call("network", "disconnect", "more", "tied")
    rival.remove(["tied"])
    rival.call("network", "rm", "more")
    return values


def leased() -> tuple[list[float], list[float]]:
    """In one transaction each, as a container's creation is, on a disk that is asked to keep it."""
    values = []
    with tempfile.TemporaryDirectory() as directory:
        with closing(Database(Path(directory) / "stead.db", (NET_SCHEMA,))) as database:
            with database.write() as connection:
                record = records.NetworkRecord(
                    "p/n", "s", "f", "stbx", "10.1.0.0/20", "10.1.0.1", False, 1500, "{}"
                )
                records.write_network(connection, record)
            for number in range(MANY):
                begin = time.perf_counter()
                with database.write() as connection:
                    leases.reserve(connection, f"c{number}", f"p/c{number}", [Attachment("p/n")])
                values.append((time.perf_counter() - begin) * 1e3)
    return values[:100], values[-100:]
