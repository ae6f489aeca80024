"""`stead lock` and what is built: base images are those of the lock file until it is renewed."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Node
from tests.e2e.test_image_specs import Registry
from tests.kernel.images_box import needs_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.registry,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
    needs_registry,
]

LOCK = "stead.lock.toml"


@pytest.fixture
def registry(node: Node, tmp_path: Path) -> Iterator[Registry]:
    """Version v1 of app:1 is there, and a container is to run what is built on it."""
    made = Registry(node, tmp_path)
    try:
        made.release("v1")
        write(node, f"FROM {made.name}\nCOPY word /word\n")
        yield made
    finally:
        made.server.stop()


def write(node: Node, dockerfile: str, more: str = "") -> None:
    app = node.specs / "web"
    app.mkdir(exist_ok=True)
    (app / "Dockerfile").write_text(dockerfile)
    (app / "word").write_text("word")
    (node.specs / "app.toml").write_text(
        f'[image.app]\nbuild = {{ context = "web", network = "none" }}\n{more}'
        '[container.app]\nimage = "app"\nnetwork_mode = "none"\nstop_grace_period = "100ms"\n'
        """command = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"]\n"""
    )


def locked(node: Node) -> dict[str, str]:
    document = tomllib.loads((node.specs / LOCK).read_text())
    assert document["version"] == 2
    return dict(document["digest"])


def test_what_is_built_stays_on_its_base_until_the_lock_is_renewed(node: Node, registry: Registry) -> None:
    node.stead("lock", str(node.specs))
    first = locked(node)
    assert list(first) == [registry.name]
    registry.release("v2")
    node.stead("apply", str(node.specs))
    assert registry.running() == "v1"
    assert "is up to date" in node.stead("lock", str(node.specs), "--check")
    node.stead("image", "pull", "-q", registry.name)  # the tag is here, and stands for another image
    assert node.stead("plan", str(node.specs)).strip() == "nothing to do"

    change = f"app:1: {first[registry.name]} -> sha256:"
    assert change in node.stead("lock", "--update", "--dry-run", str(node.specs))
    assert locked(node) == first
    before = (node.specs / LOCK).read_text()
    assert change in node.stead("lock", "--update", str(node.specs), registry.name)
    node.stead("apply", str(node.specs))
    assert registry.running() == "v2"

    registry.server.stop()  # what was built before needs no network
    (node.specs / LOCK).write_text(before)
    node.stead("apply", str(node.specs))
    assert registry.running() == "v1"


def test_a_base_that_the_lock_lacks_is_told_with_its_line_and_added(node: Node, registry: Registry) -> None:
    node.stead("lock", str(node.specs))
    write(node, f"FROM {registry.name}\nCOPY word /word\nCOPY --from=busy:1 /www /w\n")
    problem = "web/Dockerfile:3:1: image 'busy:1' is not in stead.lock.toml (run stead lock)"
    assert problem in node.stead("validate", str(node.specs), code=1)
    assert problem in node.stead("apply", str(node.specs), code=1)

    unknown = f"FROM {registry.name}\nCOPY --from={registry.server.address}/none:3 /www /w\n"
    write(node, unknown)
    said = node.stead("lock", str(node.specs), code=1)
    assert "web/Dockerfile:2:1: cannot look up image" in said and 'with pull = "never"' in said
    write(node, "FROM $NOTHING\n")
    assert "web/Dockerfile:1:1: the image is empty" in node.stead("lock", str(node.specs), code=1)
    assert list(locked(node)) == [registry.name]

    local = '[image.busy]\nfrom = "busy:1"\npull = "never"\n'
    write(node, f"FROM {registry.name}\nCOPY word /word\nCOPY --from=busy:1 /www /w\n", local)
    assert "is up to date" in node.stead("lock", str(node.specs))
    node.stead("apply", str(node.specs))
    assert node.stead("exec", "app", "cat", "/w/index.html") == "well\n"
    write(node, "FROM busy:1\n", local)
    assert f"{registry.name}: sha256:" in node.stead("lock", str(node.specs))  # nothing needs it any more
    assert locked(node) == {}


def test_a_lock_file_of_before_locks_no_base_and_says_so(node: Node, registry: Registry) -> None:
    (node.specs / LOCK).write_text("version = 1\n\n[digest]\n")
    warning = f"web/Dockerfile:1:1: warning: base image '{registry.name}' is free: {LOCK} was written before"
    assert warning in node.stead("validate", str(node.specs))
    node.stead("apply", str(node.specs))
    assert registry.running() == "v1"
    first = node.ps()["default/app"]["id"]
    said = node.stead("lock", "--check", str(node.specs), code=2)
    assert "app:1: (not locked) -> sha256:" in said and "version 1 -> 2: the base images" in said
    node.stead("lock", str(node.specs))
    assert list(locked(node)) == [registry.name]
    assert "warning" not in node.stead("validate", str(node.specs))
    node.stead("apply", str(node.specs))  # the same image, out of the cache
    assert node.ps()["default/app"]["id"] == first
