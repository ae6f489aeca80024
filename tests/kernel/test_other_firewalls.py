"""Beside the rules of others: iptables in both of its forms, Docker. Each on a host of its own (net_box)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from runtime.net import addresses, links
from specs.values import PortBinding
from tests.kernel.docker_box import needs_docker
from tests.kernel.net_box import (
    HOST,
    HOST6,
    MARKS,
    OUTSIDE,
    OUTSIDE6,
    Machine,
    Node,
    ask,
    comes_to_answer,
    on_own_host,
    serve,
    sh,
)

pytestmark = MARKS


def published(machine: Machine) -> tuple[Node, str]:
    node = machine.fabric()
    node.network("p/net", ipv6=True)
    web = node.container("p/web", "p/net", ports=(PortBinding("", 8080, 80),))
    serve(node.netns[web], 80)
    serve(machine.outside, 81)
    return node, web


def works(machine: Machine, node: Node, web: str) -> None:
    assert comes_to_answer(machine.outside, HOST, 8080) == OUTSIDE
    assert ask(machine.outside, HOST6, 8080) == OUTSIDE6
    assert ask(node.netns[web], OUTSIDE, 81) == HOST, "and out"


def has(command: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"needs {command}")


@has("iptables-nft")
@on_own_host
def test_a_forward_policy_of_iptables_that_drops_gets_our_rules_and_loses_them_again() -> None:
    with Machine() as machine:
        machine.ipv6()
        for command in ("iptables-nft", "ip6tables-nft"):
            sh(command, "-P", "FORWARD", "DROP")
        node, web = published(machine)
        works(machine, node, web)
        assert node.defects() == set()
        prefix = addresses.bridge_prefix(str(node.paths.root.resolve()))
        for command in ("iptables-nft", "ip6tables-nft"):
            listing = sh(command, "-S", "FORWARD")
            for key in ("-i", "-o"):
                assert listing.count(f"-A FORWARD {key} {prefix}+ -j ACCEPT") == 1, "as iptables reads it"
        sh("iptables-nft", "-F", "FORWARD")
        assert node.defects() == {"forwarding"} and ask(machine.outside, HOST, 8080) is None
        node.fabric.publish(force=True)
        works(machine, node, web)
        assert node.defects() == set()
        node.remove(web)
        node.fabric.remove_network("p/net")
        for command in ("iptables-nft", "ip6tables-nft"):
            assert "st" not in sh(command, "-S", "FORWARD").split()


@has("iptables-legacy")
@on_own_host
def test_tables_of_iptables_legacy_are_seen_too() -> None:
    with Machine() as machine:
        machine.ipv6()
        try:
            sh("iptables-legacy", "-P", "FORWARD", "DROP")
        except subprocess.CalledProcessError:
            return  # a kernel without ip_tables has no such tables
        node, web = published(machine)
        works(machine, node, web)
        assert node.defects() == set()
        node.remove(web)
        node.fabric.remove_network("p/net")
        assert sh("iptables-legacy", "-S", "FORWARD") == "-P FORWARD DROP\n"


@contextlib.contextmanager
def dockerd(machine: Machine) -> Iterator[None]:
    """A daemon with its bridge and its rules, in this network namespace."""
    base = machine.directory / "docker"
    base.mkdir(exist_ok=True)
    (base / "daemon.json").write_text('{"ip6tables": true, "experimental": true}')
    command = ["dockerd", "-H", f"unix://{base}/socket", "--data-root", f"{base}/data"]
    command += ["--exec-root", f"{base}/exec", "--pidfile", f"{base}/pid", "--storage-driver", "vfs"]
    command += ["--config-file", f"{base}/daemon.json", "--exec-opt", "native.cgroupdriver=cgroupfs"]
    path = "/usr/sbin:/sbin:" + os.environ["PATH"]
    with (base / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PATH": path})
    try:
        deadline = time.monotonic() + 30
        while "API listen on" not in (base / "log").read_text():
            assert daemon.poll() is None and time.monotonic() < deadline, (base / "log").read_text()[-2000:]
            time.sleep(0.05)  # between two looks
        yield
    finally:
        daemon.terminate()
        daemon.wait(30)


@needs_docker
@has("iptables-nft")
@on_own_host
def test_docker_comes_and_goes_beside_us() -> None:
    with Machine() as machine:
        machine.ipv6()
        node, web = published(machine)
        links.write_sysctl("ipv4/ip_forward", "0")  # it sets the policy where it sets this
        with dockerd(machine):
            assert "-P FORWARD DROP" in sh("iptables", "-S", "FORWARD")
            assert node.defects() == {"forwarding"}
            node.fabric.publish(force=True)
            assert node.defects() == set()
            works(machine, node, web)
            assert sh("iptables", "-S", "DOCKER-USER").count("-j ACCEPT") == 2
        with dockerd(machine):
            assert node.defects() == set(), "it leaves DOCKER-USER as it is"
            works(machine, node, web)
