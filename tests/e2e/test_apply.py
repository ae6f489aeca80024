"""The command line on real directories: plan, apply, drift, heal, down. Black box, as root, with its
own state.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import pytest

from runtime.linux import mounts
from tests.e2e.conftest import Node, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


#: of every container here
COMMON = 'image = "busy:1"\nstop_grace_period = "100ms"\nupdate = { monitor = "100ms" }\n'


def test_apply_converges_and_a_second_plan_is_empty(node: Node) -> None:
    node.write(MODE="one")
    assert "start container" in node.stead("plan", str(node.specs), code=2)
    node.stead("apply", str(node.specs))
    assert node.page() == "well\n"
    assert {row["phase"] for row in node.ps().values()} == {"running"}
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"
    assert "nothing to do" in node.stead("apply", str(node.specs))


def test_a_changed_variable_replaces_exactly_that_container(node: Node) -> None:
    node.write(MODE="one")
    node.stead("apply", str(node.specs))
    before = node.ps()
    node.write(MODE="two")
    assert "MODE" in node.stead("plan", str(node.specs), code=2)
    node.stead("apply", str(node.specs))
    after = node.ps()
    assert after["default/web"]["id"] != before["default/web"]["id"]
    assert after["default/idle"] == before["default/idle"]
    assert "MODE=two" in node.stead("exec", "web", "env")


def test_a_bad_spec_changes_nothing_and_names_every_mistake(node: Node) -> None:
    node.write(MODE="one")
    node.stead("apply", str(node.specs))
    before = node.ps()
    mistakes = '[container.x]\nimagee = "a"\n\n[container.y]\nimage = "a"\nmemory = "lots"\n'
    (node.specs / "bad.toml").write_text(mistakes)
    for verb in ("validate", "apply"):
        text = node.stead(verb, str(node.specs), code=1)
        assert "bad.toml:2:1" in text and "bad.toml:6:" in text
    assert node.ps() == before
    (node.specs / "bad.toml").unlink()


def test_a_killed_program_runs_again_without_any_agent(node: Node) -> None:
    node.write(MODE="one")
    node.stead("apply", str(node.specs))
    before = node.ps()["default/web"]
    os.kill(int(before["pid"]), signal.SIGKILL)
    until(lambda: node.ps()["default/web"]["restarts"] == 1)
    until(lambda: node.ps()["default/web"]["phase"] == "running")
    until(node.answers)


def test_drift_is_seen_and_repaired_without_a_restart(node: Node) -> None:
    node.write(MODE="one")
    node.stead("apply", str(node.specs))
    before = node.ps()["default/web"]
    known = json.loads(node.stead("inspect", "container", "web"))
    mounts.unmount(known["paths"]["rootfs"])
    mounts.unmount(known["paths"]["netns"])
    assert "repair container default/web" in node.stead("plan", str(node.specs), code=2)
    node.stead("apply", str(node.specs))
    assert node.ps()["default/web"] == before
    assert mounts.is_mounted(known["paths"]["rootfs"]) and mounts.is_mounted(known["paths"]["netns"])
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"


def test_a_missing_image_blocks_its_container_and_no_other(node: Node) -> None:
    node.write(MODE="one")
    wanted = '[image.no]\nfrom = "localhost:1/no:1"\n[container.no]\nimage = "no"\n'
    (node.specs / "more.toml").write_text(wanted)
    text = node.stead("apply", str(node.specs), "--timeout", "6", code=1)
    assert "localhost:1/no:1" in text
    assert node.page() == "well\n"
    (node.specs / "more.toml").unlink()
    node.stead("apply", str(node.specs))


def test_output_and_exit_codes_reach_the_caller(node: Node) -> None:
    node.write(MODE="one")
    node.stead("apply", str(node.specs))
    assert "begun" in node.stead("logs", "idle")
    node.stead("exec", "idle", "sh", "-c", "exit 7", code=7)
    assert "no such file" in node.stead("exec", "idle", "nothing-here", code=127)


def test_one_source_never_touches_another(node: Node) -> None:
    node.write(MODE="one")
    node.stead("apply", str(node.specs))
    other = node.base / "other"
    other.mkdir()
    container = '[container.x]\nimage = "busy:1"\ncommand = ["sleep", "1000"]\nstop_grace_period = "100ms"\n'
    (other / "x.toml").write_text(f'project = "other"\n{container}')
    before = node.ps()
    node.stead("apply", str(other))
    node.stead("down", str(other))
    assert node.ps() == before


def test_what_does_not_exist_is_said_in_one_line(node: Node) -> None:
    node.write(MODE="one")
    assert node.stead("logs", "nobody", code=1).count("\n") == 1
    assert node.stead("validate", str(node.base / "nowhere"), code=1).count("\n") == 1


def test_what_a_person_ordered_is_said_by_plan_and_apply(node: Node) -> None:
    """A revision that is held back, approved for once, or left for an older one; a container that waits."""
    spec = node.specs / "shop.toml"

    def declare(*names: str, color: str = "blue") -> None:
        more = f'{COMMON}command = ["sleep", "1000"]\nenvironment = {{ COLOR = "{color}" }}\n'
        spec.write_text("".join(f"[container.{name}]\n{more}" for name in names))

    def held() -> str:
        """What both say, and the revision that waits."""
        said = node.stead("apply", str(node.specs), code=1)
        found = re.search(r"it would remove 4 of 5 containers; it waits for: stead approve (\w+)", said)
        assert found, said
        plan = node.stead("plan", str(node.specs), code=2).splitlines()
        assert plan[0] == f"source shop: {found[0]}"
        assert sum(line.startswith("remove container default/") for line in plan) == 4
        (first, *_) = json.loads(node.stead("plan", "--json", str(node.specs), code=2))["blocked"]
        assert (first["kind"], first["name"], first["code"], first["reason"]) == (
            *("source", "shop", "held"),
            found[0],
        )
        return found[1]

    declare(*"abcde")
    node.stead("apply", str(node.specs))
    assert "none waits" in node.stead("approve", "abcdef", code=1)
    for _ in range(2):  # what was approved once is asked for again
        declare("a")
        revision = held()
        assert f"what waits is {revision} of source shop" in node.stead("approve", "abcdef", code=1)
        assert f"revision {revision} of source shop may" in node.stead("approve", revision)
        node.stead("apply", str(node.specs))
        assert "none waits" in node.stead("approve", revision, code=1)
        declare(*"abcde")
        node.stead("apply", str(node.specs))

    node.stead("suspend", "a")
    declare(*"abcde", color="red")
    said = node.stead("apply", str(node.specs))
    assert "nothing to do" not in said
    assert "5 containers as declared, but for what the note says" in said
    assert "nothing to do: 5 containers as declared, but" in node.stead("apply", str(node.specs))
    node.stead("resume", "a")
    node.stead("apply", str(node.specs))

    node.stead("rollback", "shop")
    plan = node.stead("plan", str(node.specs), code=2).splitlines()
    assert re.fullmatch(
        r"source shop: revision \w+ is kept in force by .*; revision \w+ waits for: .*", plan[0]
    )
    assert "environment.COLOR: red -> blue" in plan[1], "what apply would do now"


def test_the_same_container_of_another_source_is_refused_at_once(node: Node) -> None:
    (node.specs / "shop.toml").write_text(f'[container.a]\n{COMMON}command = ["sleep", "1000"]\n')
    node.stead("apply", str(node.specs))
    other = node.base / "other"
    shutil.copytree(node.specs, other)
    said = node.stead("apply", str(other), "--timeout", "60", code=1)
    assert said.splitlines()[-1] == "not converged: container default/a: the name belongs to source shop"
    assert "rollout" not in said
