"""Effects: how long a path is down after somebody took away what it is made of, and what watching costs.

Each engine is in a network namespace of its own, so that the rules and links are not those of the machine.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rivals import Engine, Unavailable
from benchmarks.stead import IMAGE, Stead, cpu_seconds, until
from runtime.linux import namespaces
from runtime.net import addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

#: containers beside the one that answers; seconds after which a path counts as lost; seconds of a look at CPU
BESIDE, LOST, SECONDS = 100, 15.0, 20.0
#: changes of others a second: one set element or route each
CHURN = 1000
PORT = 18080

SPEC = """
[container.answers]
image = "{image}"
command = ["/bin/busybox", "httpd", "-f", "-p", "80"]
ports = ["{port}:80"]
stop_grace_period = "100ms"
"""


def repair(bench: Bench) -> None:
    """After each of several faults: until a request through a published port is answered again."""
    with island():
        _stead(bench)
    for rival in bench.rivals:
        _rival(bench, rival)


@contextmanager
def island() -> Iterator[None]:
    """This thread, and what it starts, in a network namespace of its own."""
    with tempfile.TemporaryDirectory() as base:
        spot = Path(base, "island")
        namespaces.create_netns(spot)
        try:
            with namespaces.in_netns(spot):
                yield
        finally:
            namespaces.delete_netns(spot)


def _stead(bench: Bench) -> None:
    stead = bench.stead
    stead.declare(BESIDE)
    (stead.specs / "answers.toml").write_text(SPEC.format(image=IMAGE, port=PORT))
    agent = stead.start_agent()
    try:
        until(lambda: stead.running() == BESIDE + 1 and answers())
        until(lambda: stead.status().get("state") == "converged", pause=0.1)
        _idle(bench, agent)
        for what, take in _faults(stead).items():
            values = []
            for _ in range(min(bench.runs, 9)):  # of the tenth on, repairs of the same are paced
                take()
                values.append(until(answers, LOST, 0.002) * 1e3)
                until(lambda: stead.status().get("state") == "converged", pause=0.2)
            note = f"beside {BESIDE} containers"
            bench.add(f"path is back after: {what}", "stead", "ms", values, target=1000, note=note)
    finally:
        (stead.specs / "answers.toml").unlink()
        stead.declare(0)
        until(lambda: not stead.states(), pause=0.1)
        stead.stop_agent()


def _faults(stead: Stead) -> dict[str, Callable[[], None]]:
    root = str(stead.paths.root.resolve())
    (bridge,) = (name for name in _links() if name.startswith(addresses.bridge_prefix(root)))
    shown = subprocess.run(stead.words("ps", "--json"), capture_output=True, text=True, check=True).stdout
    (id,) = (row["id"] for row in json.loads(shown) if row["name"].endswith("/answers"))
    inside = ("nsenter", f"--net={stead.paths.netns(id)}")

    def cut() -> None:
        words = [*inside, "ip", "-j", "link", "show", "eth0"]
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        _run("ip", "link", "delete", socket.if_indextoname(json.loads(shown)[0]["link_index"]))

    return {
        "nft flush ruleset": lambda: _run("nft", "flush", "ruleset"),
        "ip link del BRIDGE": lambda: _run("ip", "link", "delete", bridge),
        "ip link del VETH": cut,
        "ip route del SUBNET": lambda: _run("ip", "route", "flush", "dev", bridge),
        "ip route del default, inside": lambda: _run(*inside, "ip", "route", "flush", "dev", "eth0"),
        "route_localnet = 0": lambda: _run("sysctl", "-qw", f"net.ipv4.conf.{bridge}.route_localnet=0"),
    }


def _links() -> list[str]:
    shown = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True)
    return [item["ifname"] for item in json.loads(shown.stdout)]


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _idle(bench: Bench, agent: int) -> None:
    """What the agent takes while nothing happens, and while others change rules and routes all the time."""

    def share() -> float:
        before, begin = cpu_seconds([agent]), time.perf_counter()
        time.sleep(SECONDS)
        return (cpu_seconds([agent]) - before) / (time.perf_counter() - begin) * 100

    time.sleep(SECONDS)
    bench.add(f"agent's CPU, {BESIDE} idle containers", "stead", "%", [share()], target=0.5)
    with tempfile.NamedTemporaryFile("w", suffix=".churn") as script:
        script.write(CHURNING)
        script.flush()
        churning = subprocess.Popen(["python3", script.name, str(CHURN)])
        try:
            bench.add(f"the same, {CHURN} changes of others a second", "stead", "%", [share()])
        finally:
            churning.terminate()
            churning.wait()


#: adds and deletes routes by one `ip -batch`, at a pace
CHURNING = """
import subprocess, sys, time
subprocess.run(["ip", "link", "add", "churn0", "type", "veth", "peer", "name", "churn1"], check=True)
subprocess.run(["ip", "link", "set", "churn0", "up"], check=True)
subprocess.run(["ip", "link", "set", "churn1", "up"], check=True)
ip = subprocess.Popen(["ip", "-batch", "-"], stdin=subprocess.PIPE, text=True)
try:
    while True:
        for number in range(int(sys.argv[1]) // 100):
            for verb in ("add", "delete") if number % 2 else ():
                ip.stdin.write(f"route {verb} 203.0.113.{number}/32 dev churn0\\n")
        ip.stdin.flush()
        time.sleep(0.01)
except KeyboardInterrupt:
    pass
"""


def answers(port: int = PORT) -> bool:
    """Whether the host gets an answer through the published port."""
    with socket.socket() as client:
        client.settimeout(0.1)
        try:
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/")
        except OSError:
            return False


def _rival(bench: Bench, rival: Engine) -> None:
    """Whether the rule of a published port is back after a flush; the port itself may answer by a proxy."""
    what = "path is back after: nft flush ruleset"
    ports = ("-p", f"{PORT}:80")
    command = ("/bin/busybox", "httpd", "-f", "-p", "80")
    try:
        rival.call("run", "-d", "--name", "answers", *rival.options, *ports, IMAGE, *command)
    except Unavailable as reason:
        print(f"without {rival.name}: {reason}")
        return
    shown = [*rival.entering, "nft", "list", "ruleset"]

    def has_rule() -> bool:
        return f"dport {PORT}" in subprocess.run(shown, capture_output=True, text=True).stdout

    try:
        if not has_rule():
            print(f"without {rival.name}: its rules are not in nftables")
            return
        _run(*rival.entering, "nft", "flush", "ruleset")
        try:
            values = [until(has_rule, LOST, 0.05) * 1e3]
            note = ""
        except TimeoutError:
            values, note = (
                [LOST * 1e3],
                "not within that time; a restart of the engine or container is needed",
            )
        bench.add(what, rival.name, "ms", values, note=note)
    finally:
        rival.remove(["answers"])
