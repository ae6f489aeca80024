"""Effects: how fast published ports are: nginx by wrk, iperf3 beside a path made by hand, the 2,000th port.

Stead runs in a network namespace that is made for it (`python -m benchmarks.ports DIRECTORY`), as docker and
podman do; nginx alone runs in the same one. 32 connections, 1 KB, one thread each. Each round takes every way
of every engine in turn, since a machine that is fast now is slow a minute later.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.rivals import Engine
from runtime.linux import namespaces
from runtime.local import LocalRuntime
from runtime.net.records import read_leases
from runtime.paths import Paths
from runtime.wishes import Attachment, ContainerRequest, NetworkRequest
from specs.values import ImageRef, PortBinding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

SECONDS, ROUNDS, IPERF_ROUNDS, PORTS = 2, 9, 3, 2000
PORT, PORT6, ALONE = 8080, 8086, 8090
#: the same path without us, of both families: IPv6 has its own price, with and without containers
ALONE_WAY, ALONE_WAY6 = "nginx alone", "nginx alone, by [::1]"
IMAGE = "bench/nginx:1"
NETWORK, NETWORK6 = "bench/ports", "bench/six"  # one as the others have it, one with IPv6
CONF = """\
daemon off; user root; worker_processes 1; pid /run/nginx.pid; error_log /dev/stderr;
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path /tmp/1; proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3; uwsgi_temp_path /tmp/4;
  scgi_temp_path /tmp/5;
  server { listen PORT; listen [::]:PORT; root ROOT; }
}
"""
FIGURE = 90_000.0  # requests a second, where nginx alone has 107,000


#: Way -> (requests a second, microseconds of a processor for one), of one round.
Round = dict[str, tuple[float, float]]


def ports(bench: Bench) -> None:
    missing = [
        name for name in ("nginx", "wrk", "iperf3", "curl") if shutil.which(name, path=_path()) is None
    ]
    if missing:
        print(f"without ports: {', '.join(missing)} not installed")
        return
    with tempfile.TemporaryDirectory(prefix="stead-ports.") as directory, ExitStack() as stack:
        archive = make_image(Path(directory) / "nginx")
        command = ["unshare", "-n", "-m", "--propagation", "private"]
        command += [sys.executable, "-m", "benchmarks.ports", directory]
        stead = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(_end, stead)
        engines = {"stead": partial(_answer, stead)}
        for rival in bench.rivals:
            rival.call("import", "--change", 'CMD ["/usr/sbin/nginx"]', str(archive), IMAGE)
            engines[rival.name] = stack.enter_context(of_rival(rival))
        rounds = [{name: one() for name, one in engines.items()} for _ in range(ROUNDS)]
        for name in engines:
            _tell(bench, name, [found[name] for found in rounds], [found["stead"] for found in rounds])
        assert stead.stdin is not None and stead.stdout is not None
        print("rest", file=stead.stdin, flush=True)
        for line in stead.stdout:
            row = json.loads(line)
            bench.add(row.pop("what"), row.pop("engine"), row.pop("unit"), row.pop("values"), **row)


def _answer(stead: subprocess.Popen[str]) -> Round:
    """A round of Stead's, done in its namespace."""
    assert stead.stdin is not None and stead.stdout is not None
    print("round", file=stead.stdin, flush=True)
    return {way: (rate, cost) for way, (rate, cost) in json.loads(stead.stdout.readline()).items()}


def _end(stead: subprocess.Popen[str]) -> None:
    assert stead.stdin is not None
    stead.stdin.close()  # which it takes for the end
    if stead.wait(60):
        sys.exit(stead.returncode)


def _tell(bench: Bench, engine: str, rounds: list[Round], beside: list[Round]) -> None:
    """`beside` are Stead's of the same rounds: nginx alone is among them."""
    for way in rounds[0]:
        rates, costs = ([found[way][item] for found in rounds] for item in (0, 1))
        alone = ALONE_WAY6 if "::1" in way else ALONE_WAY
        parts = [found[way][0] / other[alone][0] for found, other in zip(rounds, beside, strict=True)]
        note = f"{median(parts) * 100:.0f} % of {alone}"
        if engine != "stead":
            ratios = [other[way][0] / found[way][0] for found, other in zip(rounds, beside, strict=True)]
            note += f"; stead has {median(ratios) * 100:.0f} % of its"
        who = "host" if way in (ALONE_WAY, ALONE_WAY6) else engine
        target = FIGURE if who == "stead" else None
        bench.add(f"requests a second, {way}", who, "1/s", rates, target=target, note=note)
        bench.add(f"processor for a request, {way}", who, "us", costs)


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


def make_image(root: Path) -> Path:
    """nginx of this machine with its libraries, as a directory and as an archive beside it."""
    program = shutil.which("nginx", path=_path())
    assert program is not None
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for file in [program, *re.findall(r"(/\S+) \(0x", listed)]:
        to = root / (file.lstrip("/") if file != program else "usr/sbin/nginx")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, to)
    for place in ("etc/nginx", "tmp", "run", "srv", "var/log/nginx", "var/lib/nginx", "usr/share/nginx"):
        (root / place).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "srv/index.html").write_text("x" * 1024)
    (root / "etc/nginx/nginx.conf").write_text(CONF.replace("PORT", "80").replace("ROOT", "/srv"))
    archive = root.with_suffix(".tar")
    subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
    return archive


def wrk(url: str, master: int, *before: str) -> tuple[float, float]:
    """(requests a second, microseconds of a processor that wrk and nginx took for one): the second says what
    a way costs where others want the processors, too."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime + busy(master)
    begun += resource.getrusage(resource.RUSAGE_CHILDREN).ru_stime
    command = [*before, "wrk", "-t1", "-c32", f"-d{SECONDS}s", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said and "Socket errors" not in said, said
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = used.ru_utime + used.ru_stime + busy(master) - begun
    rate, count = (re.search(text, said) for text in (r"Requests/sec: +([\d.]+)", r"(\d+) requests in"))
    assert rate is not None and count is not None
    return float(rate[1]), took / int(count[1]) * 1e6


def busy(master: int) -> float:
    """Seconds of a processor that a process and its children have had; proc(5)."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    ticks = 0
    for pid in (str(master), *children):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def of_rival(rival: Engine) -> Iterator[Callable[[], Round]]:
    """Its container with nginx, while this lasts; yields what does one round."""
    name = "nginx"
    sh(*rival.entering, "ip", "link", "set", "lo", "up")
    rival.call("run", "-d", "--name", name, *rival.options, "-p", f"{PORT}:80", IMAGE, "/usr/sbin/nginx")
    try:
        address, gateway = (
            rival.call("inspect", "-f", f"{{{{.NetworkSettings.{key}}}}}", name)
            for key in ("IPAddress", "Gateway")
        )
        ways = {
            "bridge address": f"http://{address}/",
            "127.0.0.1": f"http://127.0.0.1:{PORT}/",
            "the host's address": f"http://{gateway}:{PORT}/",
            "[::1]": f"http://[::1]:{PORT}/",
        }
        ways = {way: url for way, url in ways.items() if _answers(rival, url)}
        master = rival.pid(name)
        yield lambda: {way: wrk(url, master, *rival.entering) for way, url in ways.items()}
    finally:
        rival.remove([name])


def _answers(rival: Engine, url: str) -> bool:
    """Whether it offers that way at all."""
    command = [*rival.entering, "curl", "-sf", "-o", "/dev/null", "--retry", "3", "--retry-delay", "1"]
    return subprocess.run([*command, "--retry-connrefused", "-m", "9", url], check=False).returncode == 0


# ---------------------------------------------------------------- in a namespace of its own


def say(what: str, engine: str, unit: str, values: list[float], **more: object) -> None:
    print(json.dumps({"what": what, "engine": engine, "unit": unit, "values": values, **more}), flush=True)


def sh(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def inside(base: Path) -> None:
    sh("ip", "link", "set", "lo", "up")
    with ExitStack() as stack:
        outside = base / "outside"
        namespaces.create_netns(outside)
        stack.callback(namespaces.delete_netns, outside)
        sh("ip", "link", "add", "up0", "type", "veth", "peer", "name", "world0", "netns", str(outside))
        join("", "up0", "198.51.100.1/24")
        join(outside, "world0", "198.51.100.2/24")
        runtime = stack.enter_context(
            closing(LocalRuntime(Paths(base / "root", base / "run"), shortcut=True))
        )
        runtime.import_image(base / "nginx", ImageRef.parse(IMAGE))
        runtime.create_network(NetworkRequest(NETWORK, "bench", "f"))
        stack.callback(runtime.remove_network, NETWORK)
        runtime.create_network(NetworkRequest(NETWORK6, "bench", "f", ipv6=True))
        stack.callback(runtime.remove_network, NETWORK6)
        web = start(runtime, stack, "web", NETWORK, PortBinding("", PORT, 80), PortBinding("", 5201, 5201))
        peer = start(runtime, stack, "peer", NETWORK)
        six = start(runtime, stack, "six", NETWORK6, PortBinding("", PORT6, 80))
        requests(base, runtime, web, six)
        throughput(base, runtime, web, peer, outside)
        many(runtime)


def start(runtime: LocalRuntime, stack: ExitStack, name: str, network: str, *ports: PortBinding) -> str:
    request = ContainerRequest(
        f"bench/{name}", "bench", "i", "a", "{}", ImageRef.parse(IMAGE),
        command=("/usr/sbin/nginx",), networks=(Attachment(network),), ports=ports, stop_grace_period=0.1,
    )  # fmt: skip
    id = runtime.create_container(request)
    stack.callback(runtime.remove_container, request.name)
    runtime.start_container(request.name)
    return id


def requests(base: Path, runtime: LocalRuntime, web: str, six: str) -> None:
    """A round for each line that is read, until it is another."""
    address = read_leases(runtime.database.read(), container=web)[0].address
    ways = {
        "bridge address": (f"http://{address}/", web),
        "127.0.0.1": (f"http://127.0.0.1:{PORT}/", web),
        "the host's address": (f"http://198.51.100.1:{PORT}/", web),
        "[::1]": (f"http://[::1]:{PORT6}/", six),
    }
    masters = {item.id: item.pid for item in runtime.observe().containers.values()}
    with nginx(base) as alone:
        while sys.stdin.readline() == "round\n":
            found = {ALONE_WAY: wrk(f"http://127.0.0.1:{ALONE}/", alone)}
            found |= {ALONE_WAY6: wrk(f"http://[::1]:{ALONE}/", alone)}
            found |= {way: wrk(url, masters[id]) for way, (url, id) in ways.items()}
            print(json.dumps(found), flush=True)


@contextmanager
def nginx(base: Path) -> Iterator[int]:
    """Alone, on this namespace's own loopback. Yields its pid."""
    conf = base / "alone.conf"
    text = CONF.replace("/tmp/", f"{base}/t").replace("/run/nginx.pid", f"{base}/nginx.pid")
    conf.write_text(text.replace("PORT", str(ALONE)).replace("ROOT", str(base / "nginx/srv")))
    program = str(shutil.which("nginx", path=_path()))
    running = subprocess.Popen([program, "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        wait_for(("127.0.0.1", ALONE))
        yield running.pid
    finally:
        running.terminate()
        running.wait(10)


def wait_for(address: tuple[str, int]) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(address) == 0:
                return
        assert time.monotonic() < deadline, address
        time.sleep(0.01)


def join(netns: Path | str, link: str, address: str, gateway: str = "") -> None:
    before = ["nsenter", f"--net={netns}"] if netns else []
    sh(*before, "ip", "link", "set", "lo", "up")
    sh(*before, "ip", "address", "add", address, "dev", link)
    sh(*before, "ip", "link", "set", link, "up")
    if gateway:
        sh(*before, "ip", "route", "add", "default", "via", gateway)


def throughput(base: Path, runtime: LocalRuntime, web: str, peer: str, outside: Path) -> None:
    """The same paths by hand: a bridge with two pairs of ip(8), and a route from outside."""
    netns = {id: runtime.paths.netns(id) for id in (web, peer)}
    address = read_leases(runtime.database.read(), container=web)[0].address
    sh("ip", "link", "add", "byhand", "type", "bridge")
    join("", "byhand", "10.99.0.1/24")
    made = [base / "hand2", base / "hand3"]
    for number, path in enumerate(made, 2):
        namespaces.create_netns(path)
        sh("ip", "link", "add", f"hand{number}", "type", "veth", "peer", "name", "eth0", "netns", str(path))
        sh("ip", "link", "set", f"hand{number}", "master", "byhand", "up")
        join(path, "eth0", f"10.99.0.{number}/24", "10.99.0.1")
    sh("nsenter", f"--net={outside}", "ip", "route", "add", "10.99.0.0/24", "via", "198.51.100.1")
    paths = {
        "container to container": (netns[web], netns[peer], address, made[0], made[1], "10.99.0.2"),
        "a published port": (netns[web], outside, "198.51.100.1", made[0], outside, "10.99.0.2"),
    }
    for what, (server, client, to, server2, client2, to2) in paths.items():
        ours, theirs = [], []
        for _ in range(IPERF_ROUNDS):
            theirs.append(iperf(server2, client2, to2))
            ours.append(iperf(server, client, to))
        ratio = sorted(one / other for one, other in zip(ours, theirs, strict=True))[IPERF_ROUNDS // 2]
        say(f"iperf3, {what}", "by hand", "Gbit/s", theirs)
        say(f"iperf3, {what}", "stead", "Gbit/s", ours, note=f"{ratio * 100:.0f} % of the path by hand")
    for path in made:
        namespaces.delete_netns(path)


def iperf(server: Path, client: Path, address: str) -> float:
    listening = subprocess.Popen(
        ["nsenter", f"--net={server}", "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL
    )
    try:
        command = ["nsenter", f"--net={client}", "iperf3", "-J", "-t", str(SECONDS), "-c", address]
        deadline = time.monotonic() + 10
        while True:
            said = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
            if "error" not in said:
                return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9
            assert time.monotonic() < deadline, said["error"]  # it does not listen yet
            time.sleep(0.05)
    finally:
        listening.wait(10)


def many(runtime: LocalRuntime) -> None:
    """Containers that are rows only, each with one port: what it takes until the kernel has it."""
    taken = []
    for number in range(PORTS):
        id = f"{number:032x}"
        with runtime.database.write(durable=False) as connection:
            binding = PortBinding("", 20_000 + number, 80)
            runtime.fabric.reserve(connection, id, f"bench/c{number}", (), (binding,))
            connection.execute(
                "INSERT INTO leases (network, address, container, position, mac, aliases)"
                " VALUES (?, ?, ?, 0, '', '[]')",
                (NETWORK, f"10.{number >> 8}.{number & 255}.9", id),
            )
        begin = time.perf_counter()
        runtime.fabric.activate(id)
        runtime.fabric.publish(only=id)
        taken.append((time.perf_counter() - begin) * 1e6)
    say("publishing a port, the first ten", "stead", "us", taken[:10])
    say("publishing a port, the 1,991st to the 2,000th", "stead", "us", taken[-10:])
    with runtime.database.write() as connection:
        for number in range(PORTS):
            runtime.fabric.release(connection, f"{number:032x}")
    runtime.fabric.publish()


if __name__ == "__main__":
    inside(Path(sys.argv[1]))
