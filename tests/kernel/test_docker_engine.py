"""docker's engine at the same registry: it pulls what we pushed, and we what it pushed."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.linux import namespaces
from tests.kernel.docker_box import Docker, docker, needs_docker
from tests.kernel.images_box import (
    BASE,
    Layout,
    LocalRegistry,
    below,
    file,
    layer,
    needs_registry,
    ref,
    store,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    needs_docker,
    needs_registry,
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with docker(tmp_path_factory.mktemp("docker") / "box") as made:
        yield made


def beside(engine: Docker, action: Callable[[], None]) -> None:
    """What runs in docker's network namespace, with the threads and processes that it starts."""

    def run() -> None:
        fd = os.open(f"/proc/{engine.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(fd, namespaces.CLONE_NEWNET)
        finally:
            os.close(fd)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        action()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()


def test_docker_runs_on_with_what_we_pushed_and_we_with_what_it_pushed(
    engine: Docker, tmp_path: Path
) -> None:
    def both() -> None:
        registry = LocalRegistry(tmp_path / "registry")
        try:
            trip(engine, registry, tmp_path)
        finally:
            registry.stop()

    beside(engine, both)


def trip(engine: Docker, registry: LocalRegistry, tmp_path: Path) -> None:
    name, back = f"{registry.address}/ours:1", f"{registry.address}/back:1"
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, layer(file("top", "of it"))], config={"Cmd": ["/bin/x"]})
    with store(tmp_path / "box") as box:
        image = box.store.import_path(layout.path, ref(name))
        pushed = box.store.push(ref(name))
        engine.well("pull", "-q", name)
        (seen,) = json.loads(engine.well("image", "inspect", name))
        assert seen["RepoDigests"] == [f"{registry.address}/ours@{pushed.digest}"]
        assert seen["Config"]["Cmd"] == ["/bin/x"]
        engine.well("tag", name, back)
        engine.well("push", "-q", back)
        assert box.store.pull(ref(back)) in (image, seen["Id"])
        trees = []
        for each in (name, back):
            found = box.store.get(each)
            assert found is not None
            with box.mounted(found.id) as merged:
                trees.append(below(merged))
        assert trees[0] == trees[1] and len(trees[0]) > 20
        index = f"{registry.address}/index:1"
        box.store.push_index(ref(index), [image])
        engine.well("pull", "-q", index)
        (again,) = json.loads(engine.well("image", "inspect", index))
        assert again["Id"] == seen["Id"]
