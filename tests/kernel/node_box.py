"""A machine with Stead as its command line shows it, and archives to fill it with."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.local import LocalRuntime
from runtime.paths import Paths
from runtime.wishes import ContainerRequest
from tests.kernel.docker_box import Said
from tests.kernel.images_box import digest, ref

PROGRAM = "import sys; from agent.cli.main import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Node:
    paths: Paths

    def run(self, *words: str, stdin: str = "") -> Said:
        command = [sys.executable, "-c", PROGRAM, "--root", str(self.paths.root), "--run"]
        done = subprocess.run(
            [*command, str(self.paths.run), *words], capture_output=True, text=True, timeout=60, input=stdin
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def load(self, archive: Path, name: str) -> str:
        with LocalRuntime(self.paths) as runtime:
            return runtime.import_image(archive, ref(name))

    def tag(self, image: str, name: str) -> None:
        with LocalRuntime(self.paths) as runtime:
            runtime.images.tag(image, ref(name))

    def create(self, name: str, image: str) -> None:
        request = ContainerRequest(
            name, "t", "i", "a", "{}", ref(image), network_mode="none", command=("true",)
        )
        with LocalRuntime(self.paths) as runtime:
            runtime.create_container(request)

    def remove(self, name: str) -> None:
        with LocalRuntime(self.paths) as runtime:
            runtime.remove_container(name)

    def commit(self, image: str, name: str) -> str:
        """An image made from another one, with no new layer."""
        with LocalRuntime(self.paths) as runtime:
            catalog = runtime.images.catalog
            parent = catalog.need(image, "x")
            query = "SELECT config FROM images WHERE id = ?"
            text = catalog.database.read().execute(query, (parent,)).fetchone()[0]
            config = text.replace('"config"', '"author": "me", "config"', 1).encode()
            return runtime.images.add_image(config, catalog.chain(parent), [ref(name)], parent)

    def left(self) -> list[str]:
        return os.listdir(self.paths.layers) + os.listdir(self.paths.blobs)


def docker_archive(path: Path, name: str, layers: Sequence[bytes], config: Mapping[str, Any]) -> Path:
    """As `docker save` writes it; `config` is the whole document but for the layers."""
    rootfs = {"type": "layers", "diff_ids": [digest(item) for item in layers]}
    document = {"architecture": "amd64", "os": "linux", **config, "rootfs": rootfs}
    text = json.dumps(document).encode()
    files = {f"{digest(text)[7:]}.json": text}
    files |= {f"{digest(item)[7:]}/layer.tar": item for item in layers}
    config_name, *layer_names = files
    entry = {"Config": config_name, "RepoTags": [name], "Layers": layer_names}
    files["manifest.json"] = json.dumps([entry]).encode()
    with tarfile.open(path, "w") as archive:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
