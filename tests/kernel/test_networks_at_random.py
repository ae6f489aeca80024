"""200 operations by chance on networks and containers, from several threads at once: whatever they come to,
nothing is left of them in the kernel or the database."""

from __future__ import annotations

import json
import random
import secrets
import shutil
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

from runtime.faults import Fault
from runtime.linux import mounts
from runtime.local import LocalRuntime
from runtime.net import links
from runtime.paths import Paths
from runtime.wishes import Attachment, ContainerRequest, NetworkRequest
from specs.values import ImageRef, PortBinding
from tests.kernel.net_box import MARKS, Machine, on_own_host, sh

pytestmark = MARKS

OPERATIONS, THREADS = 200, 4
NETWORKS = {f"p/n{number}": f"10.77.{number}.0/24" for number in range(4)}
CONTAINERS = [f"p/c{number}" for number in range(6)]
IMAGE = ImageRef.parse("test/busybox:1")
#: What may be the answer while others do something else with the same things.
EXPECTED = {
    "address-taken",
    "container-exists",
    "container-not-found",
    "container-not-running",
    "network-in-use",
    "network-not-found",
    "port-taken",
    "request-invalid",
}


def request(name: str, chance: random.Random) -> ContainerRequest:
    chosen = chance.sample(sorted(NETWORKS), chance.randint(1, 3))
    networks = tuple(attachment(network, chance) for network in chosen)
    port = PortBinding("127.0.0.1", 7000 + chance.randrange(8), 80, "tcp")
    facets = {"identity": {"networks": [one.network for one in networks]}}
    return ContainerRequest(
        name,
        "s",
        "i",
        "a",
        json.dumps(facets),
        IMAGE,
        command=("/bin/busybox", "sleep", "3600"),
        networks=networks,
        ports=(port,) if chance.random() < 0.5 else (),
        stop_grace_period=0.01,
    )


def attachment(network: str, chance: random.Random) -> Attachment:
    """Sometimes with an address that others ask for as well."""
    base = NETWORKS[network].rpartition(".")[0]
    address = f"{base}.{200 + chance.randrange(3)}" if chance.random() < 0.2 else ""
    return Attachment(network, (f"alias{chance.randrange(3)}",), address, gw_priority=chance.randrange(3))


def make_network(runtime: LocalRuntime, name: str) -> None:
    runtime.create_network(NetworkRequest(name, "s", "f", subnet=NETWORKS[name], ipv6=True))


def operate(runtime: LocalRuntime, chance: random.Random) -> None:
    name, network = chance.choice(CONTAINERS), chance.choice(sorted(NETWORKS))
    match chance.choice(
        ["create", "create", "connect", "disconnect", "replace", "remove", "adjust", "network"]
    ):
        case "create":
            runtime.create_container(request(name, chance))
            runtime.start_container(name)
        case "replace":
            runtime.remove_container(name)
            runtime.create_container(request(name, chance))
            runtime.start_container(name)
        case "connect":
            runtime.containers.connect(name, attachment(network, chance))
        case "disconnect":
            runtime.containers.disconnect(name, network)
        case "adjust":
            runtime.adjust_container(request(name, chance))
        case "remove":
            runtime.remove_container(name)
        case _:
            runtime.remove_network(network)
            make_network(runtime, network)


def work(runtime: LocalRuntime, seed: int, done: list[int], wrong: list[BaseException]) -> None:
    chance = random.Random(seed)
    for number in range(OPERATIONS // THREADS):
        try:
            operate(runtime, chance)
            done.append(number)
        except Fault as fault:
            if fault.code not in EXPECTED:
                wrong.append(fault)
        except BaseException as error:
            wrong.append(error)


def rootfs(base: Path) -> Path:
    root = base / "image"
    (root / "bin").mkdir(parents=True)
    shutil.copy2(str(shutil.which("busybox")), root / "bin" / "busybox")
    return root


@on_own_host
def test_200_operations_by_chance_from_several_threads_leave_nothing() -> None:
    seed = secrets.randbits(32)
    with Machine() as machine:
        paths = Paths(machine.directory / "root", machine.directory / "run")
        runtime = LocalRuntime(paths)
        try:
            runtime.import_image(rootfs(machine.directory), IMAGE)
            for name in NETWORKS:
                make_network(runtime, name)
            done: list[int] = []
            wrong: list[BaseException] = []
            threads = [
                threading.Thread(target=work, args=(runtime, seed + number, done, wrong))
                for number in range(THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert wrong == [], f"seed {seed}: {wrong}"
            assert len(done) > OPERATIONS / 5, f"seed {seed}: most of it was refused"
            whole(runtime, seed)
            for name in CONTAINERS:
                runtime.remove_container(name)
            for name in NETWORKS:
                runtime.remove_network(name)
            observed = runtime.observe()
            assert (observed.leftovers, observed.firewall, observed.networks) == ((), (), {}), f"seed {seed}"
        finally:
            for name in CONTAINERS:
                runtime.remove_container(name)
            runtime.close()
        left(paths, seed)


def whole(runtime: LocalRuntime, seed: int) -> None:
    """What is there is as the records say, once what was taken by hand is back."""
    for name in NETWORKS:
        make_network(runtime, name)
    for name, container in runtime.observe().containers.items():
        if container.phase == "running":
            try:
                runtime.repair_container(name)
            except Fault as fault:  # who has its address meanwhile keeps it
                assert fault.code in ("address-taken", "port-taken"), f"seed {seed}: {fault}"
                runtime.remove_container(name)
    runtime.repair_firewall()
    runtime.sweep()
    observed = runtime.observe()
    running = [item for item in observed.containers.values() if item.phase == "running"]
    wrong = [defect for item in running for defect in item.defects]
    wrong += [*observed.firewall, *(defect for item in observed.networks.values() for defect in item.defects)]
    assert (wrong, observed.leftovers) == ([], ()), f"seed {seed}"


def left(paths: Paths, seed: int) -> None:
    connection = sqlite3.connect(paths.database)
    tables = ("networks", "leases", "endpoints", "published_ports", "containers")
    rows = [table for table in tables if connection.execute(f"SELECT 1 FROM {table}").fetchone()]
    connection.close()
    ours = [name for name in links.links() if name.startswith("st")]
    bound = [mount.target for mount in mounts.table() if str(paths.run) in mount.target]
    shown = sh("nft", "list", "ruleset")
    assert (rows, ours, bound, shown) == ([], [], [], ""), f"seed {seed}"
    end = time.monotonic() + 30  # who holds outputs beside shims waits a little for the next container
    while (asleep := _processes(paths)) and time.monotonic() < end:
        time.sleep(0.1)
    assert asleep == "", f"seed {seed}"


def _processes(paths: Paths) -> str:
    return subprocess.run(["pgrep", "-f", str(paths.run)], capture_output=True, text=True).stdout
