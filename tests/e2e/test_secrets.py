"""Secrets and configs: where their bytes are, and where they are not; changes, reboots, a dead agent."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest

from runtime.linux import mounts
from tests.e2e.conftest import Node, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

SPEC = """
[secret.sealed]
file = "sealed.age"
[secret.plain]
file = "keys/plain"
[secret.text]
file = "text.txt"
[secret.given]
environment = "GIVEN"
[secret.node]
external = true
name = "of-the-node"
[config.greeting]
content = "hello ${WHO}\\n"
[config.table]
file = "table.conf"

[container.one]
image = "busy:1"
command = ["sleep", "1000"]
stop_grace_period = "0s"
secrets = [
  "sealed",
  { source = "plain", target = "own", uid = "1000", gid = "1001", mode = 0o400 },
  { source = "text", target = "/etc/deep/text" },
  "given",
  "node",
]
configs = ["greeting", { source = "table", target = "/etc/table.conf", mode = 0o640 }]
network_mode = "none"
"""


class Vault:
    """A directory of specs with its secrets, an agent on it, and the bytes that nobody else is to see."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.values = {name: secrets.token_hex(24) for name in ("sealed", "plain", "text", "given", "node")}
        self.identity = pyrage.x25519.Identity.generate()
        self.key, self.external = node.base / "age.key", node.base / "external"
        self.external.mkdir()
        (node.specs / "keys").mkdir()
        self.key.write_text(f"# made for a test\n{self.identity}\n")
        self.settings, self.metrics = node.base / "stead.toml", node.free_port()
        self.log = node.base / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        specs = self.node.specs
        self.seal()
        (specs / "keys" / "plain").write_text(self.values["plain"])
        (specs / "text.txt").write_text(self.values["text"])
        (specs / "table.conf").write_text("a = 1\n")
        (self.external / "of-the-node").write_text(self.values["node"])
        self.settings.write_text(
            f'[[source]]\nname = "shop"\ndirectory = "{specs}"\n'
            f'variables = {{ GIVEN = "{self.values["given"]}", WHO = "you" }}\n'
            f'[listen]\nmetrics = "127.0.0.1:{self.metrics}"\n'
            f'[secrets]\nidentities = ["{self.key}"]\ndirectory = "{self.external}"\n'
        )
        (specs / "shop.toml").write_text(SPEC)

    def seal(self) -> None:
        sealed = pyrage.encrypt(self.values["sealed"].encode(), [self.identity.to_public()])
        (self.node.specs / "sealed.age").write_bytes(sealed)

    def start(self) -> None:
        command = [sys.executable, "-c", "from agent.cli.main import main; raise SystemExit(main())"]
        command += ["--root", str(self.node.base / "root"), "--run", str(self.node.base / "run")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, "agent", "--settings", str(self.settings)], stderr=log)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def converged(self) -> bool:
        text = self.node.stead("status", "--json", code=None)
        return text.startswith("{") and json.loads(text)["state"] == "converged"

    def errors(self) -> str:
        text = self.node.stead("status", "--json", code=None)
        return str(json.loads(text)["sources"][0]["errors"]) if text.startswith("{") else ""

    def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.node.stead("inspect", "container", "one"))
        return found

    def follows(self, before: str) -> None:
        """Until another container than that of this id is there."""
        until(lambda: self.node.ps().get("default/one", {"id": before})["id"] != before and self.converged())

    def inside(self, script: str) -> str:
        tools = 'for t in $(/bin/busybox --list); do alias $t="/bin/busybox $t"; done\n'
        return self.node.stead("exec", "one", "sh", "-c", f"{tools}{script}", code=None)

    def has_all(self) -> bool:
        paths = "/run/secrets/sealed /run/secrets/own /etc/deep/text /run/secrets/given /run/secrets/node"
        return self.inside(f"cat {paths}") == "".join(self.values.values())


@pytest.fixture
def vault(node: Node) -> Iterator[Vault]:
    vault = Vault(node)
    vault.write()
    yield vault
    vault.end()


def test_files_are_inside_and_their_bytes_nowhere_else(node: Node, vault: Vault) -> None:
    vault.start()
    until(vault.converged)
    assert vault.has_all()
    assert vault.inside("cat /greeting /etc/table.conf") == "hello you\na = 1\n"
    assert vault.inside(
        "stat -c '%a %u:%g' /run/secrets/sealed /run/secrets/own /greeting /etc/table.conf"
    ) == ("444 0:0\n400 1000:1001\n444 0:0\n640 0:0\n")
    assert "Read-only file system" in vault.inside("echo x >/run/secrets/sealed")
    assert f"secrets/sealed{node.base}" not in vault.inside("cat /proc/self/mountinfo")
    told = [json.dumps(vault.seen()), node.stead("explain", "one"), node.stead("status", "--json")]
    told.append(node.stead("plan", str(node.specs), "--name", "shop", "--settings", str(vault.settings)))
    assert told[-1] == "nothing to do\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{vault.metrics}/metrics", timeout=5) as answer:
        told.append(answer.read().decode())
    node.stead("exec", "one", "/bin/busybox", "env")
    assert leaks(vault, "\n".join(told).encode()) == []
    place = Path(vault.seen()["paths"]["home"].replace("/root/", "/run/")) / "secrets"
    assert (place.stat().st_mode & 0o777, mounts.is_mounted(place)) == (0o700, True)
    vault.end()
    mounts.unmount(place)  # drift: mended around the running program
    pid = vault.seen()["state"]["pid"]
    node.stead("apply", str(node.specs), "--name", "shop", "--settings", str(vault.settings))
    assert mounts.is_mounted(place) and (place / "1").read_text() == vault.values["plain"]
    assert vault.seen()["state"]["pid"] == pid


def leaks(vault: Vault, told: bytes) -> list[str]:
    """Where a secret is found: in what was said, in files of root, run and log, in what any process shows."""
    base = vault.node.base
    needles = [value.encode() for value in vault.values.values()]
    needles += [base64.b64encode(needle)[:40] for needle in needles]
    hidden = [m.target for m in mounts.table() if m.target.startswith(f"{base}/run/") and m.type == "tmpfs"]
    found = ["what is told"] if any(needle in told for needle in needles) else []
    files = [base / "agent.log", *Path("/proc").glob("[0-9]*/environ"), *Path("/proc").glob("[0-9]*/cmdline")]
    for top in ("root", "run"):
        for directory, names, entries in os.walk(base / top):
            names[:] = [name for name in names if f"{directory}/{name}" not in hidden and name != "rootfs"]
            files += [Path(directory, entry) for entry in entries]
    for path in files:
        try:
            data = path.read_bytes() if path.is_file() else b""
        except OSError:  # a process that ended
            continue
        if any(needle in data for needle in needles):
            found.append(str(path))
    return found


def test_a_changed_one_replaces_the_container_and_says_so(node: Node, vault: Vault) -> None:
    vault.start()
    until(vault.converged)
    for name, path in (("plain", node.specs / "keys/plain"), ("node", vault.external / "of-the-node")):
        before = vault.seen()["id"]
        vault.values[name] = secrets.token_hex(24)
        path.write_text(vault.values[name])
        vault.follows(before)
        assert vault.has_all()
        assert f"secret {name} changed" in node.stead("explain", "one")
    before = vault.seen()["id"]
    vault.values["sealed"] = secrets.token_hex(24)
    vault.seal()
    vault.follows(before)
    assert vault.has_all() and "secret sealed changed" in node.stead("explain", "one")
    before = vault.seen()["id"]
    other = pyrage.x25519.Identity.generate()
    (node.specs / "sealed.age").write_bytes(pyrage.encrypt(b"x", [other.to_public()]))
    until(lambda: "no identity decrypts 'sealed.age'" in vault.errors())
    assert "shop.toml:3:8: secret.sealed: no identity decrypts" in vault.errors()
    assert vault.seen()["id"] == before and vault.has_all()


def test_they_are_there_without_agent_and_after_a_reboot_without_keys(node: Node, vault: Vault) -> None:
    vault.start()
    until(vault.converged)
    before = vault.seen()
    vault.end(signal.SIGKILL)
    os.kill(before["state"]["pid"], signal.SIGKILL)
    until(lambda: vault.seen()["state"]["pid"] not in (0, before["state"]["pid"]))
    assert vault.has_all()  # its shim has started it again
    power_cut(node, vault.seen()["state"])
    vault.key.unlink()
    shutil.rmtree(node.specs / "keys")
    vault.start()
    until(vault.converged)
    assert vault.seen()["id"] == before["id"] and vault.has_all()
    (node.specs / "keys").mkdir()


def power_cut(node: Node, state: dict[str, Any]) -> None:
    """What a reboot leaves: no process, no mount, nothing under run."""
    for pid in (state["shim_pid"], state["pid"]):
        os.kill(pid, signal.SIGKILL)
    run = str(node.base / "run")
    for mount in reversed(mounts.table()):
        if mount.target.startswith(run + "/"):
            mounts.unmount(mount.target)
    shutil.rmtree(run)
