"""Debian's nginx behind published ports, by the command `stead`, on a host of its own (net_box): reached by
every way, and under load while it is replaced."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.linux import namespaces
from tests.e2e.conftest import Node, until
from tests.e2e.programs import DEBS, unpacked
from tests.kernel.net_box import HOST, HOST6, MARKS, OUTSIDE, OUTSIDE6, Machine, on_own_host

pytestmark = [
    *MARKS,
    pytest.mark.skipif(not any(DEBS.glob("nginx_*.deb")), reason="needs Debian packages of ./setup test"),
]

NGINX = """\
daemon off;
user root;
pid /run/nginx.pid;
error_log /dev/stderr;
events {}
http {
  access_log off;
  server {
    listen 80;
    listen [::]:80;
    location / { return 200 "$remote_addr $hostname"; }
    location /health { root /srv; }
  }
}
"""
#: Requests under load, none of which may fail, and how often a replica is replaced meanwhile.
REQUESTS, REPLACED = 10_000, 2


@contextmanager
def running(machine: Machine) -> Iterator[Node]:
    node = Node(machine.directory)
    root = unpacked("nginx", machine.directory / "image")
    for place in ("var/lib/nginx", "var/log/nginx", "etc/nginx"):
        (root / place).mkdir(parents=True, exist_ok=True)
    (root / "etc/nginx/nginx.conf").write_text(NGINX)
    (root / "srv").mkdir(exist_ok=True)
    (root / "srv/health").write_text("well")
    node.stead("image", "import", str(root), "nginx:1")
    try:
        yield node
    finally:
        node.stead("down", str(node.specs), "--volumes")


def write(node: Node, version: str, more: str = "", *, healthcheck: bool = True) -> None:
    probe = 'healthcheck = { tcp = ":80", interval = "100ms" }' if healthcheck else ""
    (node.specs / "shop.toml").write_text(
        f"""
project = "shop"
[network.front]
enable_ipv6 = true

[container.web]
image = "nginx:1"
command = ["/usr/sbin/nginx"]
networks = ["front"]
stop_signal = "SIGQUIT"
environment = {{ VERSION = "{version}" }}
{probe}
{more}
"""
    )


def fetch(address: str, port: int) -> str:
    """What nginx sees as our address."""
    where = f"[{address}]" if ":" in address else address
    with urllib.request.urlopen(f"http://{where}:{port}/", timeout=5) as answer:
        text: str = answer.read().decode()
    return text.split()[0]


def fetch_from(netns: Path | str, address: str, port: int) -> str:
    with namespaces.in_netns(netns):
        return fetch(address, port)


@on_own_host
def test_nginx_is_reached_by_every_way() -> None:
    with Machine() as machine:
        machine.ipv6()
        with running(machine) as node:
            ports = 'ports = ["8080:80", "127.0.0.1:8081:80", "[::1]:8082:80", "9000-9005:80", "80"]\n'
            peer = '[container.peer]\nimage = "nginx:1"\ncommand = ["/usr/sbin/nginx"]\nnetworks = ["back"]\n'
            back = "[network.back]\nenable_ipv6 = true\n"
            write(node, "1", f"{ports}\n{peer}\n{back}")
            node.stead("apply", str(node.specs))
            rows = node.ps()
            web, other = (f"/proc/{rows[f'shop/{name}']['pid']}/ns/net" for name in ("web", "peer"))
            for address, source in ((HOST, OUTSIDE), (HOST6, OUTSIDE6)):
                assert fetch_from(machine.outside, address, 8080) == source, "a client's address is kept"
                for netns in (web, other):
                    assert fetch_from(netns, address, 8080)
            for address in (HOST, HOST6, "127.0.0.1", "::1"):
                assert fetch(address, 8080)
            assert fetch("127.0.0.1", 8081) and fetch("::1", 8082)
            published = {port["host_port"] for port in rows["shop/web"]["ports"]}
            (chosen,) = published - {
                8080, 8081, 8082, 9000,
            }  # fmt: skip
            assert fetch_from(machine.outside, HOST, chosen) == OUTSIDE
            assert fetch_from(machine.outside, HOST6, 9000) == OUTSIDE6, "the first one of the range"
            assert node.stead("plan", str(node.specs)) == "nothing to do\n"


@pytest.mark.skipif(shutil.which("ab") is None, reason="needs ab (Debian: apache2-utils)")
@on_own_host
def test_no_request_fails_while_replicas_are_replaced_start_first() -> None:
    with Machine() as machine, running(machine) as node:
        more = 'replicas = 2\nports = ["8080:80"]\nupdate.order = "start-first"\n'
        write(node, "0", more)
        node.stead("apply", str(node.specs))
        before = {name: row["id"] for name, row in node.ps().items()}
        assert set(before) == {"shop/web-1", "shop/web-2"}
        errors: list[BaseException] = []

        def replace() -> None:
            try:
                for version in range(1, REPLACED + 1):
                    write(node, str(version), more)
                    node.stead("apply", str(node.specs))
                    until(lambda: set(node.ps()) == set(before))
            except BaseException as error:
                errors.append(error)

        replacing = threading.Thread(target=replace)
        replacing.start()
        done = 0
        while replacing.is_alive() or done < REQUESTS:
            done += load(machine, 1000)
        replacing.join()
        assert not errors, errors
        after = {name: row["id"] for name, row in node.ps().items()}
        assert set(after) == set(before) and not set(after.values()) & set(before.values())


@on_own_host
def test_a_replica_that_is_unhealthy_gets_no_connections_until_it_is_well_again() -> None:
    with Machine() as machine, running(machine) as node:
        probe = '{ http = "http://:80/health", interval = "100ms", retries = 1, on_failure = "none" }'
        more = f'replicas = 2\nports = ["8080:80"]\nhealthcheck = {probe}\n'
        write(node, "1", more, healthcheck=False)
        settings = machine.directory / "stead.toml"
        source = f'[[source]]\nname = "shop"\ndirectory = "{node.specs}"\n'
        settings.write_text(f'{source}[listen]\nmetrics = ""\n')
        with agent(node, settings):
            until(lambda: answering(machine) == {"web-1", "web-2"})
            health = Path(f"/proc/{node.ps()['shop/web-1']['pid']}/root/srv/health")
            health.unlink()
            until(lambda: answering(machine) == {"web-2"})
            health.write_text("well")
            until(lambda: answering(machine) == {"web-1", "web-2"})


@on_own_host
def test_one_that_is_not_ready_gets_no_connections_although_nobody_else_is_there() -> None:
    with Machine() as machine, running(machine) as node:
        probe = '{ readiness = { http = "http://:80/health", interval = "100ms", retries = 1 } }'
        write(node, "1", f'ports = ["8080:80"]\nhealthcheck = {probe}\n', healthcheck=False)
        settings = machine.directory / "stead.toml"
        source = f'[[source]]\nname = "shop"\ndirectory = "{node.specs}"\n'
        settings.write_text(f'{source}[listen]\nmetrics = ""\n')
        with agent(node, settings):
            until(lambda: answering(machine) == {"web"})
            ready = Path(f"/proc/{node.ps()['shop/web']['pid']}/root/srv/health")
            for _ in range(2):
                ready.unlink()
                until(lambda: answering(machine) == {"nobody"})
                assert not node.ps()["shop/web"]["ready"]
                ready.write_text("yes")
                until(lambda: answering(machine) == {"web"})
            assert node.ps()["shop/web"]["restarts"] == 0


@contextmanager
def agent(node: Node, settings: Path) -> Iterator[None]:
    with (node.base / "agent.log").open("wb") as log:
        process = subprocess.Popen(node.command("agent", "--settings", str(settings)), stderr=log)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(20) == 0, (node.base / "agent.log").read_text()


def answering(machine: Machine) -> set[str]:
    """Names of the containers that 20 connections from outside lead to."""
    with namespaces.in_netns(machine.outside):
        found = set()
        for _ in range(20):
            try:
                with urllib.request.urlopen(f"http://{HOST}:8080/", timeout=5) as answer:
                    found.add(answer.read().decode().split()[1])
            except OSError:
                found.add("nobody")
    return found


def load(machine: Machine, count: int) -> int:
    """So many requests from outside, each by a connection of its own; not one may fail."""
    command = ["ab", "-q", "-n", str(count), "-c", "8", f"http://{HOST}:8080/"]
    with namespaces.in_netns(machine.outside):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = dict(
        re.findall(r"^(Complete requests|Failed requests|Non-2xx responses): +(\d+)", done.stdout, re.M)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # ab calls an answer of another length failed: the two have names of one length
    assert said == {"Complete requests": str(count), "Failed requests": "0"}, done.stdout
    return count
