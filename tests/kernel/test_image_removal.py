"""What `image rm` and `image prune` untag, delete, print and refuse; beside docker where it is installed."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.images.verify import Verifier
from runtime.local import LocalRuntime
from runtime.paths import Paths
from tests.kernel.docker_box import Docker, Said, docker, needs_docker
from tests.kernel.engine_box import IMAGE, engine
from tests.kernel.images_box import Layout, LocalRegistry, file, layer, needs_registry, ref
from tests.kernel.node_box import Node
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

LAYERS = {name: layer(file(name, name * 1000)) for name in ("base", "one", "two", "three")}
#: name of an image -> its layers, bottom first
IMAGES = {"one": ("base", "one"), "two": ("base", "two"), "three": ("three",)}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(Paths(tmp_path / "root", tmp_path / "run"))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A docker-archive of each image."""
    base = tmp_path_factory.mktemp("archives")
    layout = Layout(base / "layout")
    for name, layers in IMAGES.items():
        layout.image([LAYERS[item] for item in layers], tag=name, config={"Cmd": [f"/{name}"]})
        target = f"docker-archive:{base / name}.tar:{name}:1"
        subprocess.run(["skopeo", "copy", "-q", f"oci:{layout.path}:{name}", target], check=True)
    return {name: base / f"{name}.tar" for name in IMAGES}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with docker(tmp_path_factory.mktemp("docker") / "d") as made:
        yield made


# ---------------------------------------------------------------- the same steps, two engines


class Ours:
    def __init__(self, node: Node, archives: dict[str, Path]) -> None:
        self.node, self.archives = node, archives

    def load(self, name: str) -> str:
        return self.node.load(self.archives[name], f"{name}:1")

    def tag(self, image: str, name: str) -> None:
        self.node.tag(image, name)

    def create(self, image: str) -> str:
        self.node.create("t/c", image)
        return "t/c"

    def remove(self, container: str) -> None:
        self.node.remove(container)

    def commit(self, image: str, container: str, name: str) -> str:
        return self.node.commit(image, name)

    def image(self, *words: str) -> Said:
        return self.node.run("image", *words)


class Theirs:
    def __init__(self, daemon: Docker, archives: dict[str, Path]) -> None:
        self.daemon, self.archives = daemon, archives

    def load(self, name: str) -> str:
        self.daemon.well("load", "-q", "-i", str(self.archives[name]))
        return self.daemon.well("image", "inspect", "-f", "{{.Id}}", f"{name}:1")

    def tag(self, image: str, name: str) -> None:
        self.daemon.well("tag", image, name)

    def create(self, image: str) -> str:
        return self.daemon.well("create", image)

    def remove(self, container: str) -> None:
        self.daemon.well("rm", container)

    def commit(self, image: str, container: str, name: str) -> str:
        return self.daemon.well("commit", container, name)

    def image(self, *words: str) -> Said:
        return self.daemon.run("image", *words)

    def clear(self) -> None:
        for container in self.daemon.well("ps", "-aq").split():
            self.daemon.well("rm", "-f", container)
        for image in self.daemon.well("image", "ls", "-aq").split():
            self.daemon.run("image", "rm", "-f", image)
        assert self.daemon.well("image", "ls", "-aq") == ""


Engine = Ours | Theirs
Story = Callable[[Engine], list[Said]]


def several_at_once(engine: Engine) -> list[Said]:
    engine.load("one")
    engine.load("two")
    engine.load("three")
    return [engine.image("rm", "one:1", "nosuch:1", "three:1"), engine.image("rm", "two:1")]


def by_one_of_several_names(engine: Engine) -> list[Said]:
    id = engine.load("one")
    engine.tag("one:1", "one:2")
    engine.tag("one:1", "other.example:5000/x/one:1")
    return [
        engine.image("rm", "one:1"),
        engine.image("rm", id[7:19]),
        engine.image("rm", id),
        engine.image("rm", "-f", id[7:19]),
    ]


def by_id_with_one_name(engine: Engine) -> list[Said]:
    id = engine.load("two")
    return [engine.image("rm", id[7:11], id[7:19]), engine.image("rm", "-f", id)]


def what_a_container_uses(engine: Engine) -> list[Said]:
    id = engine.load("one")
    engine.tag("one:1", "one:2")
    container = engine.create("one:1")
    said = [
        engine.image("rm", "one:1"),
        engine.image("rm", "one:2"),
        engine.image("rm", id),
        engine.image("prune", "-a", "-f"),
    ]
    engine.remove(container)
    return [*said, engine.image("rm", id)]


def what_an_image_was_made_from(engine: Engine) -> list[Said]:
    id = engine.load("three")
    container = engine.create("three:1")
    engine.commit("three:1", container, "child:1")
    engine.remove(container)
    return [
        engine.image("rm", id),
        engine.image("rm", "-f", id),
        engine.image("rm", "three:1"),
        engine.image("ls", "-q"),
        engine.image("ls", "-a", "-q"),
        engine.image("prune", "-f"),
        engine.image("rm", "child:1"),
        engine.image("ls", "-a", "-q"),
    ]


def without_what_it_was_made_from(engine: Engine) -> list[Said]:
    engine.load("three")
    container = engine.create("three:1")
    engine.commit("three:1", container, "child:1")
    engine.remove(container)
    return [
        engine.image("rm", "three:1"),
        engine.image("rm", "--no-prune", "child:1"),
        engine.image("ls", "-q", "-f", "dangling=true"),
        engine.image("prune", "-f"),
    ]


def by_name(said: Said) -> Said:
    """Docker shows the names of one image in any order."""
    return replace(said, out="\n".join(sorted(said.lines)))


def a_name_that_moves(engine: Engine) -> list[Said]:
    engine.load("one")
    engine.tag("one:1", "app:1")
    engine.image("rm", "one:1")
    engine.load("two")
    engine.tag("two:1", "app:1")
    form = "{{.Repository}}:{{.Tag}} {{.ID}}"
    return [
        engine.image("ls", "--format", form, "--filter", "dangling=true"),
        by_name(engine.image("ls", "--format", form, "--filter", "dangling=false")),
        engine.image("prune", "-f"),
        by_name(engine.image("ls", "--format", form)),
        engine.image("rm", "app:1", "two:1"),
    ]


STORIES: Sequence[Story] = (
    several_at_once,
    by_one_of_several_names,
    by_id_with_one_name,
    what_a_container_uses,
    what_an_image_was_made_from,
    without_what_it_was_made_from,
    a_name_that_moves,
)


_ID = re.compile(r"\b[0-9a-f]{12,64}\b")


def heard(said: Sequence[Said]) -> list[tuple[int, list[str]]]:
    """What is compared: exit codes and lines. Each engine has its own id of an image that was made here."""
    found = []
    for item in said:
        lines = [line for line in item.lines if not line.startswith("Total")]
        names: dict[str, str] = {}
        for id in _ID.findall(item.out):
            names.setdefault(id, f"<{len(names)}>")
        for id, name in names.items():
            lines = [line.replace(id, name) for line in lines]
        found.append((item.code, lines))
    return found


@needs_docker
@needs_registry
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_images_go_as_they_go_with_docker(
    story: Story, node: Node, daemon: Docker, archives: dict[str, Path]
) -> None:
    theirs = Theirs(daemon, archives)
    theirs.clear()
    ours = heard(story(Ours(node, archives)))
    assert ours == heard(story(theirs))
    assert any(lines for _, lines in ours)


# ---------------------------------------------------------------- ours alone


@needs_registry
def test_a_forced_removal_takes_the_name_of_a_used_image_and_leaves_the_image(
    node: Node, archives: dict[str, Path]
) -> None:
    """Docker would delete it from under a stopped container; here that can be started again."""
    id = node.load(archives["one"], "one:1")
    node.create("t/c", "one:1")
    said = node.run("image", "rm", "-f", "one:1")
    assert (said.code, said.lines[0]) == (0, "Untagged: one:1") and "Deleted" not in said.out
    said = node.run("image", "rm", "-f", id)
    assert said.code == 1 and "used by t/c" in said.errors
    assert node.run("image", "prune", "-a", "-f").lines == ["Total reclaimed space: 0B"]
    node.remove("t/c")
    assert f"deleted: {id}" in node.run("image", "prune", "-f").lines
    assert node.left() == []


@needs_registry
def test_each_refusal_says_why_and_what_to_do(node: Node, archives: dict[str, Path]) -> None:
    id = node.load(archives["one"], "one:1")
    node.create("t/c", "one:1")
    child = node.commit("one:1", "child:1")
    errors = node.run("image", "rm", "one:1").errors
    assert errors == ("stead: cannot remove image one:1: used by t/c (remove its containers first)\n")
    node.remove("t/c")
    errors = node.run("image", "rm", id).errors
    assert f"the image {child[7:19]} was made from it (remove that first)" in errors
    node.tag("child:1", "child:2")
    errors = node.run("image", "rm", child).errors
    assert "it has the names" in errors and "or use --force" in errors
    said = node.run("image", "rm", "nosuch:1")
    assert (said.code, said.errors) == (1, "stead: cannot remove image nosuch:1: it is not in the store\n")
    assert node.run("image", "rm", "-f", "nosuch:1").code == 0


def test_a_digest_is_a_name_of_its_own_that_goes_with_the_last_tag(node: Node, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([LAYERS["two"]])
    id = node.load(layout.path, "two:1")
    (digest,) = node.run("image", "inspect", "-f", "{{index .RepoDigests 0}}", "two:1").lines
    assert digest.startswith("two@sha256:")
    assert node.run("image", "inspect", "-f", "{{.Id}}", digest).lines == [id]
    node.tag("two:1", "two:2")
    assert node.run("image", "rm", "two:1").lines == ["Untagged: two:1"]
    assert node.run("image", "inspect", "-f", "{{index .RepoDigests 0}}", "two:2").lines == [digest]
    assert node.run("image", "rm", digest).lines == [f"Untagged: {digest}"]
    assert node.run("image", "inspect", digest).code == 1
    said = node.run("image", "rm", "two:2")
    assert said.lines[:2] == ["Untagged: two:2", f"Deleted: {id}"]
    assert node.left() == []


@needs_registry
def test_a_prune_takes_only_what_its_filters_mean_and_counts_what_is_free(
    node: Node, archives: dict[str, Path]
) -> None:
    for name in IMAGES:
        node.load(archives[name], f"{name}:1")
    assert node.run("image", "prune", "-a", "-f", "--filter", "label=nosuch").lines == [
        "Total reclaimed space: 0B"
    ]
    before = sum(path.stat().st_size for path in node.paths.blobs.iterdir())
    said = node.run("image", "prune", "-a", "-f", "--filter", "until=1s")
    assert said.lines.count("Deleted Images:") == 1 and node.left() == []
    assert said.lines[-1].startswith("Total reclaimed space: ") and before > 0
    assert node.run("image", "prune", "-a", "-f", "--filter", "dangling=true").code == 2


@needs_registry
def test_a_prune_that_is_not_agreed_to_does_nothing(node: Node, archives: dict[str, Path]) -> None:
    node.load(archives["one"], "one:1")
    said = node.run("image", "prune", "-a")
    assert said.code == 0 and "Are you sure" in said.out and said.out.endswith("Total reclaimed space: 0B\n")
    assert len(node.run("image", "ls", "-q").lines) == 1


@needs_registry
def test_images_come_and_go_at_once_and_none_is_half_there(node: Node, archives: dict[str, Path]) -> None:
    """Importing, naming and container-making threads beside one that prunes all the time."""
    with LocalRuntime(node.paths) as runtime:
        done = threading.Event()
        wrong: list[BaseException] = []
        made = Counter[str]()

        def bring(name: str) -> None:
            for number in range(100):
                if number >= 6 and made[name]:
                    return
                try:
                    image = runtime.import_image(archives[name], ref(f"{name}:{number}"))
                    runtime.images.tag(image, ref(f"{name}:again"))
                    made[name] += 1
                except Fault as fault:
                    if fault.code != "image-not-found":  # somebody pruned it between the two
                        wrong.append(fault)

        def prune() -> None:
            while not done.is_set():
                runtime.images.collector.prune(everything=True)

        pruner = threading.Thread(target=prune)
        bringers = [threading.Thread(target=bring, args=(name,)) for name in IMAGES]
        for thread in (pruner, *bringers):
            thread.start()
        for thread in bringers:
            thread.join()
        done.set()
        pruner.join()
        assert wrong == [] and set(made) == set(IMAGES)
        verifier = Verifier(
            runtime.images.catalog, runtime.images.blobs, runtime.images.layers, runtime.images.collector
        )
        assert verifier.verify().rotten == ()
        runtime.images.collector.prune(everything=True)
    assert node.left() == []


@needs_registry
def test_the_parents_of_many_images_go_after_them(node: Node, archives: dict[str, Path]) -> None:
    node.load(archives["one"], "one:1")
    for name, parent in (("child:1", "one:1"), ("grandchild:1", "child:1")):
        node.commit(parent, name)
    lines = node.run("image", "prune", "-a", "-f").lines
    untagged = [line.partition(" ")[2] for line in lines if line.startswith("untagged")]
    assert untagged == ["grandchild:1", "child:1", "one:1"] and node.left() == []


# ---------------------------------------------------------------- digests, beside docker


@pytest.fixture
def registry(tmp_path: Path, daemon: Docker) -> Iterator[LocalRegistry]:
    """At the same address for both engines, each in its network namespace."""
    made = LocalRegistry(tmp_path / "registry")
    subprocess.run(daemon.inside("ip", "link", "set", "lo", "up"), check=True)
    command = daemon.inside("docker-registry", "serve", str(made.config))
    other = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield made
    other.terminate()
    other.wait(10)
    made.stop()


def digests(pull: Callable[[], None], move: Callable[[], None], engine: Engine, app: str) -> list[Said]:
    """Names and digests of a tag that moves, of more tags, of a digest that is taken away by itself."""
    form = "{{.Repository}} {{.Tag}} {{.Digest}} {{.ID}}"
    said = []

    def image(*words: str) -> str:
        said.append(engine.image(*words))
        return said[-1].out.strip()

    pull()
    first = image("inspect", "-f", "{{.Id}}", f"{app}:1")
    move()
    pull()
    image("ls", "--digests", "--format", form)
    image("ls", "--format", "{{.Repository}} {{.Tag}} {{.ID}}", "-f", "dangling=true")
    image("inspect", "-f", "{{.RepoTags}} {{.RepoDigests}}", first)
    engine.tag(f"{app}:1", f"{app}:2")
    engine.tag(f"{app}:1", "other:1")
    image("ls", "--digests", "--format", form)
    image("rm", f"{app}:1")
    image("ls", "--digests", "--format", form)
    image("rm", f"{app}:2")
    image("ls", "--digests", "--format", form)
    image("prune", "-f")
    pull()
    digest = image("inspect", "-f", "{{index .RepoDigests 0}}", f"{app}:1")
    image("rm", digest)
    image("ls", "--digests", "--format", form)
    image("rm", "other:1", f"{app}:1")
    pull()
    image("rm", image("inspect", "-f", "{{.Id}}", f"{app}:1"))
    return said


def in_order(said: Said) -> list[str]:
    """Without what is reclaimed: here, archives are kept and counted, too. Docker's lists have no order."""
    lines = [line for line in said.lines if not line.startswith("Total")]
    return lines if "ntagged" in said.out else sorted(lines)


@needs_docker
@needs_registry
def test_digests_are_names_as_they_are_with_docker(
    node: Node, daemon: Docker, registry: LocalRegistry, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    for name in ("one", "two"):
        layout.image([LAYERS["base"], LAYERS[name]], tag=name)
    app = f"{registry.address}/app"
    theirs = Theirs(daemon, {})
    theirs.clear()
    heards = []
    for either, pull in (
        (Ours(node, {}), lambda: node.run("image", "pull", f"{app}:1")),
        (theirs, lambda: daemon.run("pull", "-q", f"{app}:1")),
    ):
        registry.push(layout.path, "one", "app:1")

        def well(pull: Callable[[], Said] = pull) -> None:
            said = pull()
            assert said.code == 0, said.errors

        said = digests(well, lambda: registry.push(layout.path, "two", "app:1"), either, app)
        heards.append([(item.code, in_order(item)) for item in said])
    ours, wanted = heards
    assert ours == wanted


@pytest.mark.parametrize("text", ["", "Bad Name", "app:", "a//b", "UPPER"])
def test_what_can_be_no_name_is_said_to_be_none(node: Node, text: str) -> None:
    said = node.run("image", "rm", text)
    assert said.code == 1 and said.errors.startswith(f"stead: cannot remove image {text!r}: ")
    assert "not in the store" not in said.errors


def test_an_image_that_a_container_was_committed_to_keeps_the_one_it_was_made_from(tmp_path: Path) -> None:
    with engine(tmp_path) as machine:
        name = machine.start("echo new > /new; echo done; sleep 1000")
        until(lambda: machine.output(name))
        node = Node(machine.paths)
        child = node.run("container", "commit", name, "child:1").lines[-1]
        machine.runtime.remove_container(name)
        base = machine.runtime.images.catalog.find(str(IMAGE))
        said = node.run("image", "rm", base)
        assert said.code == 1 and f"the image {child[7:19]} was made from it" in said.errors
        assert node.run("image", "inspect", "-f", "{{.Parent}}", "child:1").lines == [base]
        assert node.run("image", "rm", IMAGE.familiar).lines[0] == f"Untagged: {IMAGE.familiar}"
        assert base[7:19] not in node.run("image", "ls", "-q").lines
        assert base[7:19] in node.run("image", "ls", "-a", "-q").lines
        lines = node.run("image", "rm", "child:1").lines
        assert lines[:3] == ["Untagged: child:1", f"Deleted: {child}", f"Deleted: {base}"]
