"""What we build is the same image to other people's tools, and what they build is the same to us."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rivals import Podman, Unavailable
from tests.build import trees
from tests.build.cases import MTIME
from tests.build.engines import Buildah, Engine, Image, Stead
from tests.build.workshop import Workshop
from tests.kernel.images_box import LocalRegistry, needs_registry, needs_umoci

pytestmark = pytest.mark.root

DOCKERFILE = """\
FROM base AS made
RUN mkdir /made && cd /made && echo hard > a && ln a b && ln -s a c && mkfifo pipe && chmod 4711 a
FROM base
ENV GREETING="good day"
COPY --chown=web:staff d /d
COPY --from=made /made /made
RUN rm -r /opt/full /etc/motd && mkdir /opt/full && echo new > /opt/full/new
RUN touch -d '2001-02-03 04:05:06' /d/a
WORKDIR /d
LABEL about="a round trip" version=1
EXPOSE 80 53/udp
STOPSIGNAL SIGQUIT
CMD ["sh", "-c", "cat a && echo $GREETING"]
"""
FILES = {
    "d/a": "content\n",
    "d/deep/er/file": {"content": "x" * 100_000, "mode": 0o640},
    "d/link": {"link": "../etc/passwd"},
    "d/noted": {"content": "n", "xattrs": {"user.note": "kept"}},
    "d/" + "long" * 50: "a long name",
    "d/ünïcode ☃": "snow",
}


@pytest.fixture(scope="module")
def shop(engine_of: Callable[[str], Engine], tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """With the image `trip`."""
    engine = engine_of("stead")
    assert isinstance(engine, Stead)
    made = Workshop(engine, tmp_path_factory.mktemp("trip") / "context")
    made.context.mkdir()
    made.write({"Dockerfile": DOCKERFILE, **FILES})
    made.build("-t", "trip")
    return made


@pytest.fixture(scope="module")
def trip(shop: Workshop) -> Image:
    image = shop.image("trip")
    assert image.tree["d/a"].mtime == 981_173_106
    assert image.tree["d/deep/er/file"].mtime == MTIME
    assert image.tree["made/b"].twins == ("made/a",)
    assert dict(image.tree["d/noted"].xattrs) == {"user.note": "kept"}
    assert "opt/full/one" not in image.tree
    return image


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    running = LocalRegistry(tmp_path_factory.mktemp("registry") / "r")
    yield running
    running.stop()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Stead]:
    """Another machine, as far as images go."""
    made = Stead(tmp_path / "elsewhere")
    yield made
    made.close()


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(tree: trees.Tree) -> dict[str, trees.Entry]:
    """Without the root itself, which no layer has."""
    return {path: entry for path, entry in tree.items() if path != "."}


def unpacked(archive: Path, to: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(to, filter="data")
    return to


def config_of(layout: Path) -> dict[str, Any]:
    def blob(digest: str) -> Any:
        return json.loads((layout / "blobs/sha256" / digest.partition(":")[2]).read_bytes())

    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    found: dict[str, Any] = blob(blob(entry["digest"])["config"]["digest"])
    return found


@needs_umoci
def test_umoci_unpacks_what_we_built_to_the_same_tree(shop: Workshop, trip: Image, tmp_path: Path) -> None:
    shop.build("-t", "trip:layout", "-o", f"type=oci,dest={tmp_path}/trip.tar")
    layout = unpacked(tmp_path / "trip.tar", tmp_path / "layout")
    tag = json.loads((layout / "index.json").read_text())["manifests"][0]["annotations"]
    name = tag["org.opencontainers.image.ref.name"]
    run("umoci", "raw", "unpack", "--image", f"{layout}:{name}", tmp_path / "rootfs")
    assert told(trees.read(tmp_path / "rootfs")) == told(trip.tree)


def test_podman_runs_what_we_built(
    shop: Workshop, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shop.build("-t", "trip:archive", "-o", f"type=docker,dest={tmp_path}/trip.tar")
    root = tmp_path / "none.tar"
    with tarfile.open(root, "w"):
        pass
    try:
        podman = Podman(tmp_path_factory.mktemp("podman") / "p", root)
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        podman.call("load", "-i", str(tmp_path / "trip.tar"))
        words = ("run", "--rm", "--network", "none", *podman.options, "trip:archive")
        assert podman.call(*words) == "content\ngood day"
    finally:
        podman.close()


@needs_registry
def test_what_we_built_comes_back_from_a_registry_through_skopeo(
    shop: Workshop, trip: Image, registry: LocalRegistry, elsewhere: Stead, tmp_path: Path
) -> None:
    shop.build("-t", "trip:1", "-o", f"type=oci,dest={tmp_path}/trip.tar")
    name = f"{registry.address}/trip:skopeo"
    copy = ("skopeo", "copy", "-q", "--dest-tls-verify=false")
    run(*copy, f"oci-archive:{tmp_path}/trip.tar", f"docker://{name}")
    done = elsewhere.stead("image", "pull", name)
    assert done.code == 0, done.output
    image = elsewhere.image(name)
    assert told(image.tree) == told(trip.tree)
    assert (image.config, image.history) == (trip.config, trip.history)


@needs_registry
def test_what_we_built_and_pushed_is_the_same_image_to_buildah(
    shop: Workshop, trip: Image, registry: LocalRegistry, engine_of: Callable[[str], Engine], tmp_path: Path
) -> None:
    buildah = engine_of("buildah")
    assert isinstance(buildah, Buildah)
    name = f"{registry.address}/trip:pushed"
    shop.build("-t", name, "--push")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {name}\nCOPY Dockerfile /more\n")
    done = buildah.call(["-t", "on-trip", "--tls-verify=false", "-f", str(dockerfile)], tmp_path)
    assert done.code == 0, done.output
    found = buildah.image("on-trip")
    assert found.tree.pop("more").detail == dockerfile.read_text()
    assert told(found.tree) == told(trip.tree)
    assert found.config == trip.config


@needs_registry
def test_what_buildah_built_and_pushed_is_the_same_tree_to_us(
    shop: Workshop, registry: LocalRegistry, engine_of: Callable[[str], Engine], elsewhere: Stead
) -> None:
    buildah = engine_of("buildah")
    assert isinstance(buildah, Buildah)
    done = buildah.call(["-t", "theirs"], shop.context)
    assert done.code == 0, done.output
    name = f"{registry.address}/theirs:1"
    buildah.run(*buildah.prefix, "push", "-q", "--tls-verify=false", "theirs", f"docker://{name}")
    pulled = elsewhere.stead("image", "pull", name)
    assert pulled.code == 0, pulled.output
    wanted, found = buildah.image("theirs"), elsewhere.image(name)
    assert told(found.tree) == told(wanted.tree)
    assert (found.config, found.history) == (wanted.config, wanted.history)


@needs_registry
def test_we_build_on_what_buildah_pushed(
    shop: Workshop, registry: LocalRegistry, engine_of: Callable[[str], Engine], tmp_path: Path
) -> None:
    """FROM and COPY --from of images that only a registry has."""
    buildah = engine_of("buildah")
    assert isinstance(buildah, Buildah)
    below = tmp_path / "below"
    below.mkdir()
    (below / "Dockerfile").write_text(
        "FROM base\nENV FROM=them\nRUN echo theirs > /theirs\nONBUILD ENV ON=build\n"
    )
    assert buildah.call(["-t", "below"], below).code == 0
    name = f"{registry.address}/below:1"
    buildah.run(*buildah.prefix, "push", "-q", "--tls-verify=false", "below", f"docker://{name}")
    mine = Workshop(shop.engine, tmp_path / "mine")
    mine.context.mkdir()
    mine.write(
        {"Dockerfile": f"FROM {name}\nCOPY --from={name} /theirs /copied\nRUN echo $FROM $ON > /env\n"}
    )
    mine.build("-t", "on-theirs")
    image = mine.image("on-theirs")
    assert image.tree["copied"].detail == image.tree["theirs"].detail == "theirs\n"
    assert image.tree["env"].detail == "them build\n"
    assert "OnBuild" not in image.config


def test_the_archive_says_what_the_store_says(shop: Workshop, trip: Image, tmp_path: Path) -> None:
    shop.build("-t", "trip:says", "-o", f"type=oci,dest={tmp_path}/trip.tar")
    config = config_of(unpacked(tmp_path / "trip.tar", tmp_path / "layout"))
    assert {key: value for key, value in config["config"].items() if value} == trip.config
    assert tuple(item["created_by"] for item in config["history"]) == trip.history
    layers = [item for item in config["history"] if not item.get("empty_layer")]
    assert len(layers) == len(config["rootfs"]["diff_ids"])
