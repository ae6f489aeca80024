"""What the image tests build with: layers, OCI layouts, a real registry, and trees that can be compared."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runtime.database import Database
from runtime.images.store import IMAGES_SCHEMA, ImageStore, RegistrySettings
from runtime.linux import mounts, overlay
from runtime.paths import Paths
from specs.values import ImageRef
from tests.ports import free_port

needs_registry = pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="needs docker-registry and skopeo",
)
needs_umoci = pytest.mark.skipif(not shutil.which("umoci"), reason="needs umoci")

# ---------------------------------------------------------------- the store under test


@dataclass
class Box:
    """A store with roots of its own. `leftovers` is what should not be there when nothing is going on."""

    root: Path
    registries: Mapping[str, RegistrySettings] = field(default_factory=dict)
    docker_config: Path | None = None

    def __post_init__(self) -> None:
        self.paths = Paths(self.root / "root", self.root / "run")
        self.paths.make()
        self.database = Database(self.paths.database, (IMAGES_SCHEMA,))
        self.store = ImageStore(
            self.paths, self.database, registries=self.registries, docker_config=self.docker_config
        )

    def close(self) -> None:
        self.store.close()
        self.database.close()

    def leftovers(self) -> list[str]:
        partial = self.paths.blobs.with_name("partial")
        found = os.listdir(partial) if partial.exists() else []
        return found + [name for name in os.listdir(self.paths.layers) if name.startswith(".")]

    @contextlib.contextmanager
    def mounted(self, image_id: str) -> Iterator[Path]:
        """The image as a container sees it."""
        place = self.root / "view"
        for name in ("upper", "work", "merged"):
            (place / name).mkdir(parents=True)
        layers = list(reversed(self.store.ensure_layers(image_id)))
        overlay.mount(layers, place / "upper", place / "work", place / "merged")
        try:
            yield place / "merged"
        finally:
            mounts.unmount(place / "merged")
            subprocess.run(["rm", "-rf", str(place)], check=True)


@contextlib.contextmanager
def store(base: Path) -> Iterator[Box]:
    """A box that must be left tidy."""
    made = Box(base)
    yield made
    assert made.leftovers() == []
    made.close()


def ref(text: str) -> ImageRef:
    return ImageRef.parse(text)


# ---------------------------------------------------------------- layers

Item = tuple[str, Mapping[str, Any]]


def file(name: str, content: bytes | str = b"", **more: Any) -> Item:
    data = content.encode() if isinstance(content, str) else content
    return name, {"data": data, **more}


def directory(name: str, **more: Any) -> Item:
    return name, {"type": tarfile.DIRTYPE, "mode": 0o755, **more}


def symlink(name: str, target: str, **more: Any) -> Item:
    return name, {"type": tarfile.SYMTYPE, "linkname": target, "mode": 0o777, **more}


def hardlink(name: str, target: str, **more: Any) -> Item:
    return name, {"type": tarfile.LNKTYPE, "linkname": target, **more}


def device(name: str, kind: bytes, major: int = 0, minor: int = 0, **more: Any) -> Item:
    return name, {"type": kind, "devmajor": major, "devminor": minor, **more}


def layer(*items: Item, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed layer, by Python's tarfile."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, given in items:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o644, 1_600_000_000
            data = b""
            for key, value in given.items():
                if key == "data":
                    data = value
                else:
                    setattr(info, key, value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if data else None)
    return buffer.getvalue()


#: A layer with something of every kind.
BASE = layer(
    directory("./"),
    directory("etc"),
    file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
    file("etc/shadow", "x", mode=0o640, gid=42),
    directory("tmp", mode=0o1777),
    directory("var"),
    directory("var/lib", uid=5, gid=6, mode=0o2775),
    file("var/lib/data", b"d" * 200_000),
    file("bin/su", "setuid", mode=0o4755),
    file("bin/wall", "setgid", mode=0o2755, gid=5),
    symlink("lib", "usr/lib"),
    directory("gone"),
    file("gone/a", "a"),
    file("gone/b", "b"),
    directory("full"),
    file("full/one", "1"),
    file("full/two", "2"),
    file("replaced-by-directory", "was a file"),
    directory("replaced-by-file"),
    file("replaced-by-file/inside", "x"),
    symlink("replaced-link", "/etc"),
)

# ---------------------------------------------------------------- images


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Layout:
    """An OCI layout directory that is filled by hand, right or wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.entries: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str = "") -> dict[str, Any]:
        (self.path / "blobs/sha256" / digest(data)[7:]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def image(
        self,
        layers: Sequence[bytes],
        *,
        tag: str = "test",
        compress: Any = gzip.compress,
        diff_ids: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        architecture: str = "amd64",
    ) -> dict[str, Any]:
        """Adds an image of uncompressed `layers`; returns its manifest's descriptor."""
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids or map(digest, layers))},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                self.blob(compress(item), "application/vnd.oci.image.layer.v1.tar+gzip") for item in layers
            ],
        }
        entry = self.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        self.add({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        return entry

    def add(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        index = {"schemaVersion": 2, "manifests": self.entries}
        (self.path / "index.json").write_text(json.dumps(index))


# ---------------------------------------------------------------- trees


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything about every file below `root` that unpacking must get right."""
    found: dict[str, tuple[Any, ...]] = {}
    groups: dict[int, list[str]] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for raw in [b"", *folders, *files] if folder == os.fsencode(root) else [*folders, *files]:
            path = os.path.join(folder, raw) if raw else folder
            name = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content: Any = ""
            if kind == stat.S_IFREG:
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
                if status.st_nlink > 1:
                    groups.setdefault(status.st_ino, []).append(name)
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                content = status.st_rdev
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if not key.startswith("trusted.overlay.")
            }
            size = 0 if kind == stat.S_IFDIR else status.st_size
            mtime = status.st_mtime_ns
            owner = (status.st_uid, status.st_gid)
            found[name] = (oct(status.st_mode), *owner, size, mtime, content, tuple(sorted(xattrs.items())))
    for names in groups.values():
        for name in names:
            found[name] = (*found[name], tuple(sorted(names)))
    return found


def below(root: Path) -> dict[str, tuple[Any, ...]]:
    """As `tree`, without the root itself: where that is an overlay its time is that of mounting."""
    found = tree(root)
    del found["."]
    return found


# ---------------------------------------------------------------- a real registry


class LocalRegistry:
    """Debian's docker-registry on a loopback port: a free one unless it is told."""

    def __init__(
        self,
        directory: Path,
        *,
        htpasswd: Path | None = None,
        port: int = 0,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        """`tls` is a certificate and its key."""
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.directory = directory
        directory.mkdir(parents=True)
        self._directory = directory
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
            "http": {"addr": self.address, "secret": "test"},
        }
        if tls is not None:
            config["http"] |= {"tls": {"certificate": str(tls[0]), "key": str(tls[1])}}
        if htpasswd is not None:
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
        (directory / "config.yml").write_text(json.dumps(config))
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(directory / "config.yml")], stdout=self._log, stderr=self._log
        )
        self._wait()

    @property
    def config(self) -> Path:
        return self._directory / "config.yml"

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 0.2):
                    return
            except OSError:
                assert time.monotonic() < deadline, "docker-registry does not listen"
                assert self._process.poll() is None, "docker-registry ended"
                time.sleep(0.01)

    def push(self, layout: Path, tag: str, name: str, *extra: str) -> None:
        command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", *extra]
        subprocess.run([*command, f"oci:{layout}:{tag}", f"docker://{self.address}/{name}"], check=True)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.address}{path}") as answer:
            return bytes(answer.read())
