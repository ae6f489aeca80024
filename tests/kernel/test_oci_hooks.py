"""Hooks of the low-level runtime, all six kinds. Needs root."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.oci_box import Workshop, left, workshop

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with workshop(tmp_path_factory.mktemp("hooks")) as made:
        yield made


def hook(tmp_path: Path, kind: str, text: str = "", **more: Any) -> dict[str, Any]:
    """Notes the state that it is told, the mount namespace it is in, and whether the program runs."""
    script = f"echo {kind} $(readlink /proc/self/ns/mnt) $(cat) >> {tmp_path}/log; {text}"
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], **more}


def test_hooks_of_all_kinds_run_at_their_time_in_their_namespaces_with_the_state(
    shop: Workshop, tmp_path: Path
) -> None:
    bundle = shop.bundle("sleep 1000")
    bundle.config["mounts"].append(
        {"destination": str(tmp_path), "type": "bind", "source": str(tmp_path), "options": ["bind"]}
    )
    kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    bundle.config["hooks"] = {kind: [hook(tmp_path, kind)] for kind in kinds}
    pid = bundle.create(shop.stead)
    log = tmp_path / "log"
    inside = os.readlink(f"/proc/{pid}/ns/mnt")
    seen = [line.split(" ", 2) for line in log.read_text().splitlines()]
    assert [line[0] for line in seen] == kinds[:3]
    shop.stead.well("start", bundle.id)
    shop.stead.well("delete", "--force", bundle.id)
    seen = [line.split(" ", 2) for line in log.read_text().splitlines()]
    assert [line[0] for line in seen] == kinds
    own = os.readlink("/proc/self/ns/mnt")
    assert [line[1] for line in seen] == [own, own, inside, inside, own, own]
    states = [json.loads(line[2]) for line in seen]
    assert [state["status"] for state in states] == ["creating"] * 3 + ["created", "running", "stopped"]
    assert [state["pid"] for state in states] == [pid] * 5 + [0]
    assert {state["id"] for state in states} == {bundle.id}
    assert {state["bundle"] for state in states} == {str(bundle.path)}


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_hook_that_fails_ends_the_container_and_says_so(shop: Workshop, tmp_path: Path, kind: str) -> None:
    bundle = shop.bundle("echo ran")
    bundle.config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 3"]}]}
    said = bundle.run(shop.stead)
    assert said.code == 1
    assert re.search(rf"error running {kind} hook #0 \(/bin/sh\): exit status 3, it said: why", said.errors)
    assert said.out == ""
    assert left(shop, bundle) == []


def test_a_hook_in_the_container_has_the_rights_of_the_program_only(shop: Workshop) -> None:
    """Its file may be the image's own."""
    for oci in shop.runtimes():
        bundle = shop.bundle("cat /data/rights; rm /data/rights")
        script = "{ id -u; id -g; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; } > /data/rights"
        bundle.config["hooks"] = {
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]
        }
        bundle.config["mounts"].append(
            {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["uid=7"]}
        )
        bundle.process.update(
            user={"uid": 7, "gid": 8},
            noNewPrivileges=True,
            capabilities={"bounding": ["CAP_KILL"], "permitted": [], "effective": []},
        )
        bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
        said = bundle.run(oci)
        assert said.code == 0, said.errors
        assert said.lines[:2] == ["7", "8"]
        found = dict(line.split(":", 1) for line in said.lines[2:])
        assert int(found["CapBnd"], 16) == 1 << 5
        assert int(found["CapPrm"], 16) == int(found["CapEff"], 16) == 0
        assert (found["NoNewPrivs"].strip(), found["Seccomp"].strip()) == ("1", "2")


def test_a_hook_has_its_timeout_and_a_failed_poststart_is_a_warning(shop: Workshop, tmp_path: Path) -> None:
    bundle = shop.bundle("echo ran")
    slow = {"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}
    seen = {kind: hook(tmp_path, kind) for kind in ("poststart", "poststop")}
    bundle.config["hooks"] = {
        "poststart": [slow, seen["poststart"]],
        "poststop": [{"path": "/nowhere"}, seen["poststop"]],
    }
    said = bundle.run(shop.stead)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["poststart", "poststop"]
    assert (said.code, said.out) == (0, "ran\n")
    assert (
        "error running poststart hook #0 (/bin/sleep): it did not end within its timeout of 1 s"
        in said.errors
    )
    assert "error running poststop hook #0 (/nowhere)" in said.errors
