"""A command to build that is said again: answered at a glance while nothing has changed, and only then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.builds import again
from agent.cli.main import main
from runtime.build import glance, watch
from tests.kernel.build_box import BuildBox, build_box, ref
from tests.kernel.engine_box import IMAGE

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

DOCKERFILE = f"""FROM {IMAGE.familiar}
ARG WHO
COPY d /d
COPY *.txt /texts/
COPY --exclude=*.log most/ /most/
COPY --parents deep/*/x /
LABEL who=$WHO
"""
FILES = {
    "Dockerfile": DOCKERFILE,
    ".dockerignore": "hidden\nd/out\n!d/out/*.in\n",
    "d/x": "x",
    "d/out/a": "left out",
    "d/out/sub/a": "left out",
    "hidden/a": "left out",
    "a.txt": "a",
    "most/a": "a",
    "deep/one/x": "x",
}
WITHIN = 30.0  # s


class Node:
    """Says one command, with all of its words; `name` is the image's."""

    def __init__(self, box: BuildBox) -> None:
        self.box, self.name = box, "app:1"
        self.context = box.context
        self.roots = ["--root", str(box.paths.root), "--run", str(box.paths.run)]

    def words(self, *more: str) -> list[str]:
        return ["build", "-t", self.name, *more, str(self.context)]

    def say(self, *more: str) -> None:
        assert main([*self.roots, *self.words(*more)]) == 0

    def at_a_glance(self, *more: str) -> bool:
        done = again.at_a_glance(str(self.box.paths.root), str(self.box.paths.run), self.words(*more))
        assert done in (0, None)
        return done == 0

    def settle(self, *more: str) -> None:
        """Say the command until a glance is enough: what was written a moment ago makes none."""
        end = time.monotonic() + WITHIN
        while not self.at_a_glance(*more):
            assert time.monotonic() < end, "no glance was kept"
            self.say(*more)


@pytest.fixture(scope="module")
def module_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildBox]:
    with build_box(tmp_path_factory.mktemp("glance")) as box:
        yield box


@pytest.fixture
def node(module_box: BuildBox, monkeypatch: pytest.MonkeyPatch) -> Node:
    """With the files as they are at first, and a glance of them."""
    monkeypatch.delenv("WHO", raising=False)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    shutil.rmtree(module_box.context)
    module_box.context.mkdir()
    module_box.write(FILES)
    (module_box.context / "d/link").symlink_to("x")
    made = Node(module_box)
    made.settle()
    return made


def test_a_glance_says_what_a_longer_look_says(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("-q",), ("--iidfile", str(node.box.base / "id"))):
        node.settle(*words)
        capfd.readouterr()
        assert node.at_a_glance(*words)
        short = capfd.readouterr()
        for path in (node.box.paths.root / "build" / "recipes").glob("*.glance"):
            path.unlink()
        node.say(*words)
        assert capfd.readouterr() == short
        assert short.out or short.err
    image = node.box.runtime.images.get(node.name)
    assert image is not None and (node.box.base / "id").read_text() == image.id


#: What the command names here may import, beyond what Python does to start.
THIN = {
    "__future__",
    "_blake2",
    "agent",
    "agent.cli",
    "agent.cli.builds",
    "agent.cli.builds.again",
    "agent.cli.main",
    "runtime",
    "runtime.build",
    "runtime.build.glance",
    "runtime.roots",
}
PROGRAM = """
import sys
before = set(sys.modules)
from agent.cli.main import main
code = main(sys.argv[1:])
print(*sorted(set(sys.modules) - before))
raise SystemExit(code)
"""


def test_a_glance_imports_next_to_nothing(node: Node) -> None:
    """To import json and pathlib alone takes longer than to look at two thousand files."""
    words = [sys.executable, "-c", PROGRAM, *node.roots, *node.words("-q")]
    end = time.monotonic() + WITHIN
    while True:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        imported = set(done.stdout.splitlines()[-1].split())
        if imported <= THIN:
            break
        assert time.monotonic() < end, imported - THIN


def content(context: Path) -> None:
    """Of the same size, with the times of before."""
    path = context / "d/x"
    was = path.stat()
    path.write_text("y")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def replaced(context: Path) -> None:
    """Another file with the same content: what is built is the same, but that takes a longer look."""
    (context / "new").write_text("x")
    (context / "new").rename(context / "d/x")


def kind(context: Path) -> None:
    (context / "d/x").unlink()
    (context / "d/x").mkdir()


def target(context: Path) -> None:
    (context / "d/link").unlink()
    (context / "d/link").symlink_to("y")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": content,
    "replaced": replaced,
    "mode": lambda context: (context / "d/x").chmod(0o700),
    "kind": kind,
    "target": target,
    "xattr": lambda context: os.setxattr(context / "d/x", "user.a", b"b"),
    "xattr-of-directory": lambda context: os.setxattr(context / "d", "user.a", b"b"),
    "new-file": lambda context: (context / "d/new").write_text("new"),
    "removed": lambda context: (context / "d/x").unlink(),
    "new-exception": lambda context: (context / "d/out/new.in").write_text("in"),
    "new-match": lambda context: (context / "b.txt").write_text("b"),
    "new-parent": lambda context: (context / "deep/two").mkdir(),
    "below-parent": lambda context: (context / "deep/one/x").write_text("y"),
    "excluding": lambda context: (context / "most/new").write_text("new"),
    "dockerfile": lambda context: (context / "Dockerfile").write_text(DOCKERFILE + "LABEL a=b\n"),
    "ignore": lambda context: (context / ".dockerignore").write_text("d/x\n"),
    "new-ignore": lambda context: (context / "Dockerfile.dockerignore").write_text("d/x\n"),
    "context": lambda context: (
        context.rename(context.parent / "away"),
        shutil.copytree(context.parent / "away", context),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_looked_at_longer(node: Node, change: str) -> None:
    CHANGES[change](node.context)
    assert not node.at_a_glance()
    shutil.rmtree(node.context.parent / "away", ignore_errors=True)


def test_what_the_build_does_not_see_may_change(node: Node) -> None:
    node.box.write({"d/out/a": "anything", "hidden/a": "anything"})
    assert node.at_a_glance()


@pytest.mark.parametrize("change", ["base", "name", "step", "image", "layer"])
def test_the_store_is_looked_at_longer_when_it_changes(node: Node, change: str) -> None:
    images = node.box.runtime.images
    image = images.get(node.name)
    assert image is not None
    match change:
        case "base":
            was = images.get(str(IMAGE))
            assert was is not None
            images.tag(image.id, IMAGE)
            assert not node.at_a_glance()
            images.tag(was.id, IMAGE)
        case "name":
            images.tag(str(IMAGE), ref(node.name))
        case "step":
            node.box.runtime.builder.cache.remove(node.box.runtime.builder.cache.steps()[:1])
        case "image":
            images.remove(node.name)
        case "layer":
            shutil.rmtree(images.layers.path(image.chain_ids[-1]))
    assert not node.at_a_glance()
    node.say()
    node.settle()


def test_words_and_variables_are_part_of_the_command(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not node.at_a_glance("--build-arg", "WHO=me")
    node.settle("--build-arg", "WHO")
    assert node.box.config(node.name)["config"].get("Labels") == {"who": ""}
    monkeypatch.setenv("WHO", "you")
    assert not node.at_a_glance("--build-arg", "WHO")
    node.settle("--build-arg", "WHO")
    assert node.box.config(node.name)["config"]["Labels"] == {"who": "you"}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert not node.at_a_glance("--build-arg", "WHO")


def test_what_is_to_be_done_anew_is_never_answered_at_a_glance(node: Node) -> None:
    for words in (("--no-cache",), ("--no-cache-filter", "stage-0"), ("--check",)):
        node.say(*words)
        assert not node.at_a_glance(*words)


def test_what_lies_behind_a_link_makes_no_glance(node: Node) -> None:
    """Since the link's parents would have to be looked at, too; its recipe holds as ever."""
    (node.context / "d").rename(node.context / "real")
    (node.context / "d").symlink_to("real")
    node.say()
    end = time.monotonic() + WITHIN
    while not watch.settled((node.context / "d").lstat().st_ctime_ns, time.time_ns()):
        assert time.monotonic() < end
        time.sleep(0.01)
    node.say()
    assert not node.at_a_glance()


def test_what_was_written_a_moment_ago_makes_no_glance(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be written again within a tick of the clock, which its times would not tell. Ticks are long
    here."""
    monkeypatch.setattr(watch, "FINE", 10**13)
    node.say("-q")
    node.say("-q")
    assert not node.at_a_glance("-q")


def test_steps_are_known_to_be_in_use_by_a_longer_look_now_and_then(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time() + glance.TOUCH
    monkeypatch.setattr(time, "time", lambda: later)
    assert not node.at_a_glance()


def test_a_torn_or_strange_file_is_no_glance(node: Node) -> None:
    said = again._command(str(node.box.paths.root), str(node.box.paths.run), node.words())
    place = Path(glance.place_of(str(node.box.paths.root), said))
    whole = place.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        place.write_bytes(whole[:length])
        assert not node.at_a_glance()
    for strange in (b"\xff" * 100, whole.replace(b"\0", b"\n"), whole + b"\0more", b"\0" * len(whole)):
        place.write_bytes(strange)
        assert not node.at_a_glance()
    place.write_bytes(whole)
    assert node.at_a_glance()


def test_nothing_of_the_words_and_of_variables_is_written_down(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHO", "value-of-who")
    words = ("--build-arg", "WHO", "--build-arg", "UNUSED=value-of-unused")
    node.settle(*words)
    said = again._command(str(node.box.paths.root), str(node.box.paths.run), node.words(*words))
    text = Path(glance.place_of(str(node.box.paths.root), said)).read_text()
    assert node.name in text and "value-of" not in text


def test_a_dockerfile_that_comes_nearer_is_the_one_that_counts(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-f` looks in the working directory first, and then in the context."""
    monkeypatch.chdir(tmp_path)
    node.box.write({"near": "FROM scratch\nLABEL which=context\n"})
    node.settle("-f", "near")
    (tmp_path / "near").write_text("FROM scratch\nLABEL which=here\n")
    assert not node.at_a_glance("-f", "near")
    node.say("-f", "near")
    assert node.box.config(node.name)["config"]["Labels"] == {"which": "here"}
    node.settle("-f", "near")
    (tmp_path / "near").unlink()
    assert not node.at_a_glance("-f", "near")
    node.say("-f", "near")
    assert node.box.config(node.name)["config"]["Labels"] == {"which": "context"}


def test_a_working_directory_that_is_gone_is_no_glance(node: Node, tmp_path: Path) -> None:
    here = Path.cwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    try:
        gone.rmdir()
        assert not node.at_a_glance()
    finally:
        os.chdir(here)
