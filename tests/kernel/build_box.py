"""A state directory to build in, with a busybox image and a context; nothing may be left when it is
closed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.build.request import BuildEvent, BuildRequest, BuildResult
from runtime.build.workspace import DIRECTORY, KEPT, SLICE, mark_of
from runtime.linux import cgroups, mounts, overlay
from runtime.local import LocalRuntime
from runtime.paths import Paths
from specs.values import ImageRef
from tests.kernel.engine_box import IMAGE, rootfs

POOL = "10.215.0.0/16"


@dataclass(frozen=True)
class Built:
    """A build that went well, and what it told."""

    result: BuildResult
    events: tuple[BuildEvent, ...]

    @property
    def cached(self) -> list[bool]:
        """Of each step in order: whether it was taken from the cache."""
        return [event.kind == "cached" for event in self.events if event.kind in ("cached", "done")]

    @property
    def output(self) -> list[str]:
        return [event.text for event in self.events if event.kind == "output"]


@dataclass
class BuildBox:
    """`context` is a directory; `events` are those of the last build, `builds` the ids of all."""

    base: Path
    paths: Paths = field(init=False)
    events: list[BuildEvent] = field(default_factory=list)
    builds: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.paths = Paths(self.base / "root", self.base / "run")
        self.context = self.base / "context"
        self.context.mkdir(parents=True)
        self.runtime = LocalRuntime(self.paths, pool=POOL)
        self.runtime.import_image(rootfs(self.base / "image"), IMAGE)

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def request(self, dockerfile: str = "", **more: Any) -> BuildRequest:
        text = f"FROM {IMAGE.familiar}\n{dockerfile}\n" if not dockerfile.startswith("FROM") else dockerfile
        given: dict[str, Any] = {"context": str(self.context), "dockerfile_text": text.encode()}
        given.update({"network": "none", "dockerfile_name": "Dockerfile", **more})
        return BuildRequest(**given)

    def build(self, dockerfile: str, cancelled: threading.Event | None = None, **more: Any) -> Built:
        """Of the base, unless the text begins with FROM; without a network, unless one is asked for."""
        self.events.clear()
        result = self.runtime.builder.build(self.request(dockerfile, **more), self._told, cancelled)
        steps = [event for event in self.events if _is_step(event, self.events)]
        return Built(result, tuple(steps))

    def _told(self, event: BuildEvent) -> None:
        self.builds.update(self._at_work())
        self.events.append(event)

    def _at_work(self) -> set[str]:
        work = self.paths.root / DIRECTORY
        return set(os.listdir(work)) - set(KEPT) if work.exists() else set()

    @contextmanager
    def view(self, image: str) -> Iterator[Path]:
        """What a container of the image sees."""
        layers = self.runtime.images.ensure_layers(image)
        target = self.base / "view"
        target.mkdir(exist_ok=True)
        overlay.mount(list(reversed(layers)), None, None, target)
        try:
            yield target
        finally:
            mounts.unmount(target)

    def read(self, image: str, path: str) -> str:
        with self.view(image) as root:
            return (root / path).read_text()

    def top(self, image: str) -> list[str]:
        """The paths of the uppermost layer."""
        found = self.runtime.images.get(image)
        assert found is not None
        layer = self.runtime.images.layers.path(found.chain_ids[-1])
        return sorted(str(path.relative_to(layer)) for path in layer.rglob("*"))

    def config(self, image: str) -> Mapping[str, Any]:
        found = self.runtime.images.get(image)
        assert found is not None
        return found.config

    def leftovers(self) -> list[str]:
        """What builds left: directories, mounts, networks, cgroups of builds that are not alive."""
        found = [f"directory {name}" for name in self._at_work()]
        live = self.paths.run / DIRECTORY
        found += [f"run directory {name}" for name in (os.listdir(live) if live.exists() else ())]
        found += [f"network {record.name}" for record in self.runtime.fabric.networks()]
        found += [f"mount {item.target}" for item in mounts.table() if str(self.base) in item.target]
        marks = tuple(f"{mark_of(build)}-" for build in self.builds)
        found += [f"cgroup {name}" for name in cgroups.detect().children(SLICE) if name.startswith(marks)]
        return found

    def close(self) -> None:
        try:
            assert self.leftovers() == []
        finally:
            self.runtime.close()


def _is_step(event: BuildEvent, events: list[BuildEvent]) -> bool:
    """Of the instructions, not of what is around them."""
    title = next((item.text for item in events if item.vertex == event.vertex and item.kind == "start"), "")
    return not title.startswith(("[internal]", "exporting"))


@contextmanager
def build_box(base: Path) -> Iterator[BuildBox]:
    made = BuildBox(base)
    try:
        yield made
    finally:
        made.close()


def ref(text: str) -> ImageRef:
    return ImageRef.parse(text)
