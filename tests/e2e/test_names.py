"""Containers find each other by name, with no agent anywhere: `stead apply` has ended when they ask."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from tests.e2e.conftest import Node, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

SPEC = """
[container.web]
image = "busy:1"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
stop_grace_period = "100ms"
replicas = 2
healthcheck = { test = "test ! -e /tmp/ill", interval = "100ms", retries = 1, on_failure = "none" }

[container.client]
image = "busy:1"
command = ["sleep", "1000"]
stop_grace_period = "100ms"
depends_on = { web = "healthy" }
"""


def test_a_declared_name_is_all_replicas_that_are_ready_and_needs_no_agent(node: Node) -> None:
    (node.specs / "shop.toml").write_text(f'project = "shop"\n{SPEC}')
    node.stead("apply", str(node.specs))

    def own(name: str) -> str:
        """Its address, as its own hosts file has it."""
        (address,) = re.findall(
            rf"^(\S+)\t{name}$", node.stead("exec", name, "cat", "/etc/hosts"), re.MULTILINE
        )
        return str(address)

    first, second = own("web-1"), own("web-2")
    both = {first, second}

    def found(name: str) -> set[str]:
        said = node.stead("exec", "client", "busybox", "nslookup", name, code=None)
        return {address for address in both if re.search(rf"\b{re.escape(address)}\b", said)}

    assert found("web") == found("web.shop") == both
    assert found("web-1") == {first}
    assert node.stead("exec", "client", "busybox", "wget", "-q", "-O-", "http://web/") == "well\n"
    node.stead("exec", "web-1", "busybox", "touch", "/tmp/ill")
    until(lambda: found("web") == {second})
    node.stead("exec", "web-1", "busybox", "rm", "/tmp/ill")
    until(lambda: found("web") == both)
