"""docker's own client beside ours: the same indexes, the same credentials, the same images of one
registry.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.images_box import BASE, Layout, LocalRegistry, file, layer, needs_registry
from tests.kernel.test_indexes import packed
from tests.kernel.test_login import USERS, Person

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("docker"), reason="needs docker's client"),
    needs_registry,
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """One that wants a password, with images for two platforms in Docker's form and OCI's."""
    base = tmp_path_factory.mktemp("registry")
    (base / "htpasswd").write_text(USERS)
    made = LocalRegistry(base / "registry", htpasswd=base / "htpasswd")
    for architecture in ("amd64", "arm64"):
        layout = Layout(base / architecture)
        layers = [BASE, layer(file(architecture))]
        layout.image(layers, architecture=architecture, compress=packed)
        made.push(layout.path, "test", f"oci:{architecture}", "--dest-creds=me:secret")
        made.push(layout.path, "test", f"v2s2:{architecture}", "--dest-creds=me:secret", "--format", "v2s2")
    yield made
    made.stop()


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def docker(person: Person, *words: str, given: str = "", code: int = 0) -> str:
    """docker's client alone: there is no daemon where it looks for one."""
    environment = {
        "DOCKER_CONFIG": str(person.config.parent),
        "DOCKER_HOST": f"unix://{person.base}/none.sock",
        "PATH": person.path,
    }
    done = subprocess.run(
        ["docker", *words], input=given, text=True, env=environment, capture_output=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def shown(text: str) -> Any:
    return json.loads(text)


def test_docker_reads_the_credentials_that_we_keep(person: Person, registry: LocalRegistry) -> None:
    image = f"{registry.address}/oci:amd64"
    docker(person, "manifest", "inspect", "--insecure", image, code=1)
    person.log_in(registry.address)
    assert docker(person, "manifest", "inspect", "--insecure", image)


def test_we_read_the_credentials_that_docker_keeps(person: Person, registry: LocalRegistry) -> None:
    image = f"{registry.address}/oci:amd64"
    assert "wants credentials" in person.types("manifest", "inspect", image, code=1)
    docker(person, "login", "-u", "me", "--password-stdin", registry.address, given="secret")
    assert person.types("manifest", "inspect", image)
    assert person.types("logout", registry.address) == f"Removing login credentials for {registry.address}\n"
    docker(person, "manifest", "inspect", "--insecure", image, code=1)


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_an_index_is_to_the_byte_what_docker_makes(
    person: Person, registry: LocalRegistry, form: str
) -> None:
    person.log_in(registry.address)
    images = [f"{registry.address}/{form}:{architecture}" for architecture in ("amd64", "arm64")]
    theirs, ours = f"{registry.address}/{form}:theirs", f"{registry.address}/{form}:ours"
    said = docker(person, "manifest", "create", "--insecure", theirs, *images)
    assert person.types("manifest", "create", ours, *images) == said.replace("theirs", "ours")
    notes = ["--os", "linux", "--arch", "arm", "--variant", "v7"]
    docker(person, "manifest", "annotate", *notes, theirs, images[1])
    person.types("manifest", "annotate", *notes, ours, images[1])
    digest = docker(person, "manifest", "push", "--insecure", theirs)
    assert person.types("manifest", "push", ours) == digest


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_inspect_shows_what_docker_shows(person: Person, registry: LocalRegistry, form: str) -> None:
    person.log_in(registry.address)
    image = f"{registry.address}/{form}:amd64"
    theirs = docker(person, "manifest", "inspect", "--insecure", image)
    assert person.types("manifest", "inspect", image) == theirs
    theirs = docker(person, "manifest", "inspect", "--insecure", "-v", image)
    assert shown(person.types("manifest", "inspect", "-v", image)) == shown(theirs)
    index = f"{registry.address}/{form}:both"
    person.types("manifest", "create", index, image, f"{registry.address}/{form}:arm64")
    person.types("manifest", "push", "-p", index)
    theirs = docker(person, "manifest", "inspect", "--insecure", "-v", index)
    assert shown(person.types("manifest", "inspect", "-v", index)) == shown(theirs)
