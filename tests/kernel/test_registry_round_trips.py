"""Through a real registry between other people's tools and us: buildah, podman and skopeo on the other
side.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from runtime.images.store import RegistrySettings
from tests.kernel.certificates import Authority
from tests.kernel.images_box import (
    BASE,
    Box,
    Layout,
    LocalRegistry,
    below,
    file,
    layer,
    needs_registry,
    ref,
    store,
    tree,
)
from tests.kernel.test_login import USERS

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

needs_buildah = pytest.mark.skipif(not shutil.which("buildah"), reason="needs buildah")
needs_podman = pytest.mark.skipif(not shutil.which("podman"), reason="needs podman")


class Tool:
    """buildah or podman with a storage of its own."""

    def __init__(self, name: str, base: Path) -> None:
        places = ["--root", str(base / name), "--runroot", str(base / f"{name}-run")]
        self._command = [name, *places, "--storage-driver", "vfs"]

    def __call__(self, *words: str) -> str:
        done = subprocess.run([*self._command, *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def built(tmp_path: Path) -> tuple[Tool, Path]:
    """An image of two layers that buildah made, as `round:1`; and the tree that it has. No other has the same
    content: buildah would take what the registry has already, in whatever form."""
    base = tmp_path / "buildah"
    context = base / "context"
    (context / "tree/sub").mkdir(parents=True)
    (context / "tree/sub/file").write_bytes(os.urandom(1000) + b"content " * 100_000)
    (context / "tree/mode").write_bytes(os.urandom(10))
    (context / "tree/mode").chmod(0o751)
    (context / "tree/link").symlink_to("sub/file")
    os.link(context / "tree/sub/file", context / "tree/hard")
    (context / "Dockerfile").write_text('FROM scratch\nCOPY tree /\nCOPY tree/sub /second/\nCMD ["/x"]\n')
    tool = Tool("buildah", base)
    tool("build", "-q", "--layers", "-t", "round:1", str(context))
    return tool, context / "tree"


FORMS = [
    pytest.param(["--format", "oci"], "v1.tar+gzip", id="oci"),
    pytest.param(["--format", "v2s2"], "application/vnd.docker.image.rootfs.diff.tar.gzip", id="docker"),
    pytest.param(["--format", "oci", "--compression-format", "zstd"], "v1.tar+zstd", id="zstd"),
    pytest.param(
        ["--format", "oci", "--compression-format", "zstd:chunked"], "v1.tar+zstd", id="zstd-chunked"
    ),
]


@needs_registry
@needs_buildah
@pytest.mark.parametrize(("options", "kind"), FORMS)
def test_what_buildah_pushed_in_any_form_is_pulled(
    built: tuple[Tool, Path], registry: LocalRegistry, tmp_path: Path, options: list[str], kind: str
) -> None:
    tool, source = built
    name = f"{registry.address}/round:{options[-1].strip('-').replace(':', '-')}"
    tool("push", "-q", "--tls-verify=false", *options, "round:1", f"docker://{name}")
    with store(tmp_path / "box") as box:
        image = box.store.pull(ref(name))
        document = json.loads(box.store.registries.remote(ref(name)).manifest().data)
        assert [item["mediaType"].rpartition(".layer.")[2] for item in document["layers"]] == [kind] * 2
        with box.mounted(image) as merged:
            found = tree(merged)
            assert (merged / "second/file").read_bytes() == (source / "sub/file").read_bytes()
        assert found["mode"][0] == "0o100751" and found["link"][5] == b"sub/file"
        assert found["hard"][-1] == ("hard", "sub/file")


@needs_registry
@needs_buildah
def test_what_buildah_pushed_is_pushed_on_as_it_came(
    built: tuple[Tool, Path], registry: LocalRegistry, tmp_path: Path
) -> None:
    tool, _ = built
    name, other = f"{registry.address}/came:1", f"{registry.address}/gone/on:1"
    tool("push", "-q", "--tls-verify=false", "--compression-format", "zstd", "round:1", f"docker://{name}")
    with store(tmp_path / "box") as box:
        box.store.tag(box.store.pull(ref(name)), ref(other))
        pushed = box.store.push(ref(other))
        assert pushed.digest == box.store.registries.remote(ref(name)).head()


@needs_registry
@needs_podman
def test_what_we_pushed_is_pulled_by_podman_and_pushed_back_to_us(
    registry: LocalRegistry, tmp_path: Path
) -> None:
    name, back = f"{registry.address}/ours:1", f"{registry.address}/back:1"
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(file("top", "of it"))], config={"Cmd": ["/bin/x"], "Env": ["A=b"]})
    with store(tmp_path / "box") as box, tempfile.TemporaryDirectory(prefix="p") as short:
        podman = Tool("podman", Path(short))  # its runroot may have 50 characters
        box.store.import_path(layout.path, ref(name))
        pushed = box.store.push(ref(name))
        podman("pull", "-q", "--tls-verify=false", name)
        (seen,) = json.loads(podman("image", "inspect", name))
        assert seen["Digest"] == pushed.digest
        assert seen["Config"]["Cmd"] == ["/bin/x"] and seen["Config"]["Env"] == ["A=b"]
        podman("push", "-q", "--tls-verify=false", name, f"docker://{back}")
        image = box.store.pull(ref(back))
        original = box.store.get(name)
        assert original is not None
        trees = []
        for id in (image, original.id):
            with box.mounted(id) as merged:
                trees.append(below(merged))
        assert trees[0] == trees[1] and len(trees[0]) > 20


@needs_registry
def test_a_registry_with_tls_and_passwords_is_pulled_from_and_pushed_to(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    (tmp_path / "htpasswd").write_text(USERS)
    (tmp_path / "password").write_text("secret\n")
    made = LocalRegistry(
        tmp_path / "registry", htpasswd=tmp_path / "htpasswd", tls=authority.sign("server", "127.0.0.1")
    )
    settings = RegistrySettings(
        ca_file=str(authority.file), username="me", password_file=str(tmp_path / "password")
    )
    try:
        layout = Layout(tmp_path / "layout")
        layout.image([BASE])
        name = ref(f"{made.address}/safe:1")
        sender = Box(tmp_path / "sender", {made.address: settings})
        image = sender.store.import_path(layout.path, name)
        sender.store.push(name)
        sender.close()
        receiver = Box(tmp_path / "receiver", {made.address: settings})
        assert receiver.store.pull(name) == image
        receiver.close()
        assert inspected(made, authority, "safe:1")["Architecture"] == "amd64"
    finally:
        made.stop()


def inspected(registry: LocalRegistry, authority: Authority, name: str) -> Any:
    certs = authority.file.parent / "certs"
    certs.mkdir()
    shutil.copy(authority.file, certs / "ca.crt")
    command = ["skopeo", "inspect", "--cert-dir", str(certs), "--creds", "me:secret"]
    done = subprocess.run([*command, f"docker://{registry.address}/{name}"], check=True, capture_output=True)
    return json.loads(done.stdout)
