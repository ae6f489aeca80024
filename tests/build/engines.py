"""Effects: the engines that the corpus is built with: Stead, buildah, and BuildKit in dockerd (Debian's).

Each has a store of its own, with the image `base`: busybox, a few users, no network.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.build import leftovers
from runtime.build.workspace import DIRECTORY
from runtime.linux import mounts, overlay
from runtime.local import LocalRuntime
from runtime.paths import Paths
from tests.build import trees
from tests.build.cases import MTIME, Case
from tests.crash.box import Nursery
from tests.kernel.images_box import Item, Layout, device, digest, directory, file, layer, symlink

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE_CONFIG: Mapping[str, Any] = {"Env": [PATH], "Cmd": ["sh"], "WorkingDir": "/"}
APPLETS = (
    "sh cat chmod chown cp cut dd df echo env false find grep head hostname id ip kill ln ls mkdir mkfifo"
    " mknod mount mv nc ps pwd readlink rm rmdir sed setsid sleep sort stat tail tar test touch tr"
    " true umount wc"
).split()
DEADLINE = 60.0
OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Image:
    """`config` without what is empty; `history` is created_by of all steps, bottom first."""

    tree: trees.Tree
    config: Mapping[str, Any]
    history: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    code: int
    output: str


class Engine(ABC):
    """A builder with its store. `base` and `scratch` are what a case begins with."""

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)

    def start(self, layout: Path) -> None:
        self.take(layout)
        self.base = self.image("base")

    @abstractmethod
    def take(self, layout: Path) -> None:
        """Import the image `base` of an OCI layout."""

    @abstractmethod
    def call(self, words: Sequence[str], context: Path) -> Built:
        """`build` with options that all engines know."""

    @abstractmethod
    def image(self, name: str) -> Image: ...

    @abstractmethod
    def close(self) -> None: ...

    def build(self, case: Case, context: Path, tag: str, secrets: Path) -> Built:
        """The images before it, and the case's own."""
        for number, other in enumerate(case.before):
            dockerfile = context.with_name(f"before-{number}")
            dockerfile.write_text(other["dockerfile"])
            done = self.call(["-t", other["tag"], "-f", str(dockerfile)], context)
            assert done.code == 0, done.output
        words = ["-t", tag, *(word.replace("{context}", str(context)) for word in case.options)]
        if "-f" not in case.options:
            words += ["-f", str(context / "Dockerfile")]
        for name, value in case.args.items():
            words += ["--build-arg", f"{name}={value}" if value != "$" else name]
        for name, text in case.secrets.items():
            (secrets / name).write_text(text)
            words += ["--secret", f"id={name},src={secrets / name}"]
        return self.call(words, context)

    def overlaid(self, layers: Sequence[Path]) -> trees.Tree:
        """What a container sees of `layers`, top first."""
        if not layers:
            return {".": trees.Entry("d", 0o755)}
        target = self.directory / "view"
        target.mkdir(exist_ok=True)
        overlay.mount(layers, None, None, target)
        try:
            return trees.read(target)
        finally:
            mounts.unmount(target)

    def run(self, *words: str, check: bool = True, environment: Mapping[str, str] | None = None) -> Built:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
            timeout=DEADLINE,
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout}"
        return Built(done.returncode, done.stdout)


def full(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing. An image without a directory to work in works in `/`, as BuildKit writes."""
    said = {key: value for key, value in config.items() if value not in (None, "", [], {}, False)}
    for key in (
        "ArgsEscaped",
        "Hostname",
    ):  # means something on Windows only; of the container that was committed
        said.pop(key, None)
    return {"WorkingDir": "/", **said}


class Stead(Engine):
    name = "stead"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.nursery = Nursery()
        self.paths = Paths(directory / "root", directory / "run")
        self.roots = ["--root", str(self.paths.root), "--run", str(self.paths.run)]

    def stead(self, *words: str) -> Built:
        out = self.directory / "out"
        code = self.nursery.call([*self.roots, *words], out)
        return Built(code, out.read_text())

    def take(self, layout: Path) -> None:
        done = self.stead("image", "import", str(layout), "base")
        assert done.code == 0, done.output

    def call(self, words: Sequence[str], context: Path) -> Built:
        return self.stead("build", "--progress", "plain", "--network", "none", *words, str(context))

    def image(self, name: str) -> Image:
        with LocalRuntime(self.paths) as runtime:
            image = runtime.images.get(name)
            assert image is not None, f"{name} is not in the store"
            layers = runtime.images.ensure_layers(image.id)
            document = image.config
        history = tuple(item.get("created_by", "") for item in document.get("history", ()))
        return Image(self.overlaid(list(reversed(layers))), full(document.get("config", {})), history)

    def close(self) -> None:
        """However its builds ended, they left nothing."""
        self.nursery.close()
        assert leftovers.dead(self.paths) + leftovers.alive(self.paths) == []
        assert not any((self.paths.run / DIRECTORY).glob("*"))
        assert [mount.target for mount in mounts.table() if str(self.directory) in mount.target] == []


class Buildah(Engine):
    """RUN by chroot: its other ways want a hierarchy of cgroups of their own, and a network."""

    name = "buildah"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.prefix = ["buildah", "--root", f"{directory}/root", "--runroot", f"{directory}/run"]
        self.prefix += ["--storage-driver", "overlay"]

    def take(self, layout: Path) -> None:
        self.run(*self.prefix, "pull", "-q", f"oci:{layout}:base")
        identity = self.run(*self.prefix, "images", "-q", "--no-trunc").output.strip()
        self.run(*self.prefix, "tag", identity, "localhost/base")

    def call(self, words: Sequence[str], context: Path) -> Built:
        options = [
            "--format",
            "docker",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--identity-label=false",
        ]
        options += [] if "-f" in words else ["-f", str(context / "Dockerfile")]
        # Where it keeps caches of mounts and what it downloads.
        environment = {"TMPDIR": str(self.directory)}
        # A RUN by chroot has the host's /dev/shm, and would leave there what it writes.
        apart = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs shm /dev/shm && exec "$@"', "sh"]
        command = [*apart, *self.prefix, "bud", *options, *words, str(context)]
        return self.run(*command, check=False, environment=environment)

    def image(self, name: str) -> Image:
        root = self.directory / "root"
        images = json.loads((root / "overlay-images/images.json").read_text())
        full_name = f"localhost/{name}" + ("" if ":" in name else ":latest")
        record = next(item for item in images if full_name in item.get("names", ()))
        parents = {
            item["id"]: item.get("parent", "")
            for item in json.loads((root / "overlay-layers/layers.json").read_text())
        }
        layers, at = [], record.get("layer", "")
        while at:
            layers.append(root / "overlay" / at / "diff")
            at = parents[at]
        key = "=" + base64.b64encode(f"sha256:{record['id']}".encode()).decode()
        document = json.loads((root / "overlay-images" / record["id"] / key).read_text())
        history = tuple(item.get("created_by", "") for item in document.get("history", ()))
        config = full(document.get("config", {}))
        tree = self.overlaid(layers)
        tree["."] = trees.Entry("d", 0o755)  # what its store makes is 555 and in no layer
        return Image(tree, config, history)

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.run(*self.prefix, "rm", "--all")
        self.run("rm", "-rf", str(self.directory))


class BuildKit(Engine):
    """dockerd in namespaces of its own."""

    name = "buildkit"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.socket = directory / "docker.sock"
        self.environment = {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "1"}
        (directory / "none.json").write_text("{}")
        command = ["unshare", "-n", "-m", "--propagation", "private", "dockerd"]
        command += ["-H", self.environment["DOCKER_HOST"], "--data-root", f"{directory}/data"]
        command += ["--exec-root", f"{directory}/exec", "--pidfile", f"{directory}/pid"]
        command += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--config-file", f"{directory}/none.json"]
        command += ["--iptables=false", "--bridge", "none"]
        with (directory / "log").open("wb") as log:
            self._daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(lambda: self.socket.exists() and self._docker("info", check=False).code == 0, self._daemon)

    def _docker(self, *words: str, check: bool = True) -> Built:
        return self.run("/usr/bin/docker", *words, check=check, environment=self.environment)

    def take(self, layout: Path) -> None:
        archive = self.directory / "base.tar"
        self.run("skopeo", "copy", "-q", f"oci:{layout}:base", f"docker-archive:{archive}:base:latest")
        self._docker("load", "-i", str(archive))

    def call(self, words: Sequence[str], context: Path) -> Built:
        return self._docker(
            "build", "--progress", "plain", "--network", "none", *words, str(context), check=False
        )

    def image(self, name: str) -> Image:
        found = json.loads(self._docker("image", "inspect", name).output)[0]
        data = found["GraphDriver"]["Data"] or {}
        layers = [data.get("UpperDir", ""), *data.get("LowerDir", "").split(":")]
        history = self._docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", name).output
        paths = [Path(layer) for layer in layers if layer] if found["RootFS"].get("Layers") else []
        config = full(found["Config"])
        return Image(self.overlaid(paths), config, tuple(reversed(history.splitlines())))

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait(DEADLINE)
        self.run("rm", "-rf", str(self.directory))


def until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end and process.poll() is None, "dockerd does not start"
        time.sleep(0.05)  # between two looks


ENGINES: Mapping[str, type[Engine]] = {engine.name: engine for engine in (Stead, Buildah, BuildKit)}
NEEDS = {
    "stead": (),
    "buildah": ("buildah",),
    "buildkit": ("dockerd", "/usr/bin/docker", "unshare", "skopeo"),
}


def missing(name: str) -> list[str]:
    return [program for program in NEEDS[name] if shutil.which(program) is None]


# ---------------------------------------------------------------- the base image


def base_layout(path: Path) -> Path:
    """An OCI layout with the image `base`."""
    binary = shutil.which("busybox")
    if binary is None or subprocess.run(["ldd", binary], capture_output=True).returncode == 0:
        pytest.skip("needs Debian's busybox-static")
    layout = Layout(path)
    tar = layer(*_base(Path(binary).read_bytes()))
    document = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": dict(BASE_CONFIG),
        "rootfs": {"type": "layers", "diff_ids": [digest(tar)]},
        "history": [{"created_by": "made by hand"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": layout.blob(json.dumps(document).encode(), f"{OCI}.config.v1+json"),
        "layers": [layout.blob(gzip.compress(tar, mtime=0), f"{OCI}.layer.v1.tar+gzip")],
    }
    entry = layout.blob(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")
    layout.add({**entry, "annotations": {"org.opencontainers.image.ref.name": "base"}})
    return path


def _base(busybox: bytes) -> Iterator[Item]:
    for name in ("bin", "dev", "etc", "home", "opt", "proc", "root", "run", "sys", "usr", "var"):
        yield directory(name, mtime=MTIME)
    yield directory("home/web", uid=1000, gid=1000)
    yield directory("tmp", mode=0o1777)
    yield file("bin/busybox", busybox, mode=0o755)
    for name in APPLETS:
        yield symlink(f"bin/{name}", "busybox")
    yield file(
        "etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\ndb:x:70:71::/:/bin/sh\n"
    )
    yield file("etc/group", "root:x:0:\nweb:x:1000:\ndb:x:71:\nstaff:x:50:web\n")
    yield file("etc/hosts", "127.0.0.1 base\n")
    yield file("etc/hostname", "base\n")
    yield file("etc/resolv.conf", "nameserver 192.0.2.1\n")
    yield file("etc/motd", "from the base\n")
    yield directory("opt/full")
    yield file("opt/full/one", "1\n")
    yield file("opt/full/two", "2\n")
    yield symlink("opt/link", "full")
    yield symlink("opt/absolute", "/opt/full")
    yield symlink("opt/outside", "../../../../opt/full")
    yield device("opt/null", b"3", 1, 3, mode=0o666)
