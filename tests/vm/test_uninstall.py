"""Removal as docs/operations.md has it: nothing of Stead is left on the machine. It comes last."""

from __future__ import annotations

import pytest

from tests.vm.machine import CHECKOUT, Node

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(800, func_only=True)]


def documented() -> str:
    """The commands of the section."""
    text = (CHECKOUT / "docs/operations.md").read_text()
    section = text.split("**Removal.**")[1].split("\n**")[0]
    return "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))


def test_nothing_is_left_after_the_documented_removal(node: Node) -> None:
    node.settle()
    commands = documented()
    assert "stead down" in commands
    node.run(commands)
    assert node.run("ls -d /opt/stead /etc/stead /var/lib/stead /run/stead /usr/local/bin/stead*", code=2)
    assert node.run("ls /etc/systemd/system | grep stead", code=1) == ""
    assert node.run("ls /sys/class/net").split() == ["eth0", "eth1", "lo"]
    assert node.run("nft list tables") == ""
    assert node.run("grep -c stead /proc/self/mountinfo", code=1) == "0\n"
    assert node.run("ls -d /sys/fs/cgroup/stead.slice", code=2)
    assert node.run("ps -e -o args= | grep '[s]tead-shim'", code=1) == ""
