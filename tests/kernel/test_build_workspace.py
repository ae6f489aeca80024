"""Overlays without a place, directories of builds and who holds them, and recipes. Real kernel."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.build import leftovers, recipes
from runtime.build.mounting import Mounted, Mounting
from runtime.build.mounts import RunMount
from runtime.build.request import BuildRequest, SecretSource
from runtime.build.workspace import Workspace, detached
from runtime.linux import mounts
from runtime.paths import Paths
from tests.kernel.build_box import BuildBox, build_box, ref
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path / "root", tmp_path / "run")
    made.make()
    return made


def test_steps_side_by_side_share_a_new_cache_and_have_secrets_of_their_own(paths: Paths) -> None:
    """Each step is a thread of the build. Nobody's directory may be replaced when it is mounted already."""
    count = 8
    kept = paths.root / "caches"
    hidden = paths.run / "secrets"
    hidden.mkdir()
    request = BuildRequest(context=".", secrets=(SecretSource("key", value=b"word"),))
    found: list[tuple[int, Path]] = []
    meet = threading.Barrier(count)

    def step(work: Workspace) -> None:
        into = Mounted()
        with Mounting(work, kept, hidden, request, pytest.fail) as mounting:
            meet.wait(10)
            mounting.add(RunMount(type="cache", id="c", target="/c"), into)
            mounting.add(RunMount(type="secret", id="key", target="/s"), into)
            (cache, _), (secret, _) = into.mounts
            inode = os.stat(cache["source"]).st_ino
            meet.wait(10)
            assert Path(secret["source"]).read_bytes() == b"word"
            found.append((inode, Path(secret["source"])))

    with Workspace(paths, paths.layers) as work:
        threads = [threading.Thread(target=step, args=(work,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    (home,) = kept.iterdir()
    assert [inode for inode, _ in found] == [(home / "data").stat().st_ino] * count
    assert len({path for _, path in found}) == count
    assert sorted(os.listdir(home)) == ["about.json", "data", "lock"]


def test_a_cache_that_is_pruned_while_a_step_waits_for_it_is_made_anew(paths: Paths) -> None:
    cache = RunMount(type="cache", id="c", target="/c", sharing="locked")
    request = BuildRequest(context=".")
    begun = threading.Event()
    found: list[bool] = []

    def step(work: Workspace) -> None:
        into = Mounted()
        with Mounting(work, paths.root / "caches", paths.run, request, pytest.fail) as mounting:
            begun.set()
            mounting.add(cache, into)
            found.append(os.path.isdir(into.mounts[0][0]["source"]))

    with Workspace(paths, paths.layers) as work:
        with Mounting(work, paths.root / "caches", paths.run, request, pytest.fail) as mounting:
            mounting.add(cache, Mounted())
            thread = threading.Thread(target=step, args=(work,))
            thread.start()
            assert begun.wait(10)
            (home,) = (paths.root / "caches").iterdir()
            until(lambda: "FLOCK" in waiting(home))
            shutil.rmtree(home)  # as a prune does that has the lock
        thread.join(10)
    assert found == [True]


def waiting(directory: Path) -> str:
    """Who waits for its lock: proc_locks(5)."""
    end = f":{directory.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return "\n".join(line for line in lines if "->" in line and end in line)


@pytest.mark.parametrize("legacy", [False, True], ids=["new-kernels", "old-kernels"])
def test_an_overlay_is_written_to_though_it_is_mounted_nowhere(tmp_path: Path, legacy: bool) -> None:
    for name in ("lower", "other", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "below").write_text("below")
    lowers = [tmp_path / "lower", tmp_path / "other"]
    root = detached(lowers, tmp_path / "upper", tmp_path / "work", legacy=legacy)
    try:
        assert sorted(os.listdir(root)) == ["below"]
        os.mkdir("new", dir_fd=root)
        os.unlink("below", dir_fd=root)
        assert os.listdir(root) == ["new"]
        assert [item.target for item in mounts.table() if item.target.startswith(str(tmp_path))] == []
    finally:
        os.close(root)
    assert sorted(os.listdir(tmp_path / "upper")) == ["below", "new"]  # one of them a whiteout
    assert (tmp_path / "lower" / "below").read_text() == "below"


def test_a_single_layer_cannot_be_written_to(tmp_path: Path) -> None:
    root = detached([tmp_path], None, None)
    try:
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("x", dir_fd=root)
    finally:
        os.close(root)


# ---------------------------------------------------------------- who holds what


def test_a_build_that_lives_is_no_leftover_and_one_that_died_is(paths: Paths) -> None:
    with Workspace(paths, paths.layers) as work:
        assert leftovers.alive(paths) == [work.id]
        assert leftovers.dead(paths) == []
        assert leftovers.sweep(paths, lambda _: None) == []
        kept = paths.root / "build" / "0123456789ab"
        shutil.copytree(work.directory, kept)  # as a build leaves it that was killed
    assert leftovers.dead(paths) == [kept.name]
    released: list[str] = []
    assert leftovers.sweep(paths, released.append) == [f"build {kept.name}"]
    assert released == [f"build-{kept.name}"]
    assert os.listdir(paths.root / "build") == []


def test_a_build_that_has_not_taken_its_lock_yet_is_not_swept_from_under_it(paths: Paths) -> None:
    """It has made the file: whoever sweeps holds that lock until all is gone, and the build begins anew."""
    directory = paths.root / "build" / "0123456789ab"
    directory.mkdir(parents=True)
    (directory / "lock").touch()
    seen: list[bool] = []

    def release(mark: str) -> None:
        assert mark == "build-0123456789ab"
        with open(directory / "lock", "rb") as late:
            try:
                fcntl.flock(late, fcntl.LOCK_EX | fcntl.LOCK_NB)
                seen.append(True)
            except BlockingIOError:
                seen.append(False)

    assert leftovers.sweep(paths, release) == ["build 0123456789ab"]
    assert seen == [False]
    assert not directory.exists()


def test_a_directory_that_is_not_locked_yet_has_its_time(paths: Paths) -> None:
    fresh = paths.root / "build" / "fresh"
    fresh.mkdir(parents=True)
    assert leftovers.dead(paths) == []
    old = time.time() - 2 * leftovers.GRACE
    os.utime(fresh, (old, old))
    assert leftovers.dead(paths) == ["fresh"]


# ---------------------------------------------------------------- recipes


@pytest.fixture
def box(tmp_path: Path) -> Iterator[BuildBox]:
    with build_box(tmp_path) as made:
        made.write({"Dockerfile": "FROM tests/busybox:1\nCOPY d /d\nRUN true\n", "d/x": "x"})
        yield made


def made(box: BuildBox) -> Path:
    """A recipe as the command keeps it."""
    built = box.build("", dockerfile_text=None, names=(ref("app:1"),))
    assert built.result.recipe is not None
    place = recipes.place_of(box.paths, ["said"])
    recipes.keep(place, dict(built.result.recipe))
    return place


def test_a_recipe_holds_while_nothing_of_it_changes(box: BuildBox) -> None:
    place = made(box)
    found = recipes.find(box.paths, place)
    assert found is not None
    image = box.runtime.images.get("app:1")
    assert image is not None and found["image"] == image.id
    os.utime(box.context / "d/x", (1_000_000_000, 1_000_000_000))
    box.write({"other": "not copied"})
    assert recipes.find(box.paths, place) is not None


@pytest.mark.parametrize(
    "change",
    ["content", "mode", "file", "dockerfile", "ignore", "base", "name", "step", "layer", "image", "torn"],
)
def test_a_recipe_does_not_hold_when_something_of_it_changes(
    box: BuildBox, change: str, tmp_path: Path
) -> None:
    place = made(box)
    image = box.runtime.images.get("app:1")
    assert image is not None
    match change:
        case "content":
            box.write({"d/x": "y"})
        case "mode":
            (box.context / "d/x").chmod(0o700)
        case "file":
            box.write({"d/y": "y"})
        case "dockerfile":
            box.write({"Dockerfile": "FROM tests/busybox:1\nCOPY d /d\nRUN false\n"})
        case "ignore":
            box.write({".dockerignore": "d/x\n"})
        case "base":
            box.runtime.images.tag(image.id, ref("tests/busybox:1"))
        case "name":
            box.runtime.images.tag("tests/busybox:1", ref("app:1"))
        case "step":
            box.runtime.builder.cache.remove(box.runtime.builder.cache.steps()[:1])
        case "layer":
            shutil.rmtree(box.runtime.images.layers.path(image.chain_ids[-1]))
        case "image":
            box.runtime.images.remove("app:1")
        case "torn":
            place.write_bytes(place.read_bytes()[:-10])
    assert recipes.find(box.paths, place) is None


def test_steps_that_a_recipe_names_are_used_by_it(box: BuildBox) -> None:
    """Else the cache would take them for forgotten, and prune them first."""
    place = made(box)
    cache, began = box.runtime.builder.cache, time.time()
    with box.runtime.database.write() as connection:
        connection.execute("UPDATE build_cache SET used = 1")
    assert recipes.find(box.paths, place) is not None
    assert all(step.used >= began for step in cache.steps())


def test_patterns_and_ignore_files_are_part_of_a_recipe(box: BuildBox) -> None:
    box.write(
        {"Dockerfile": "FROM scratch\nCOPY *.txt /\n", "a.txt": "a", "b.txt": "b", ".dockerignore": "b*\n"}
    )
    place = made(box)
    assert recipes.find(box.paths, place) is not None
    box.write({"b.txt": "ignored"})
    assert recipes.find(box.paths, place) is not None
    box.write({"c.txt": "seen"})
    assert recipes.find(box.paths, place) is None


def test_a_build_that_takes_something_of_a_url_has_no_recipe(box: BuildBox) -> None:
    box.write({"Dockerfile": "FROM tests/busybox:1\nLABEL a=b\n"})
    assert box.build("", dockerfile_text=None).result.recipe is not None
    assert box.build("LABEL a=b\n").result.recipe is None  # its Dockerfile is in no file


def test_workspaces_of_one_root_do_not_meet(paths: Paths) -> None:
    found: list[str] = []

    def work() -> None:
        with Workspace(paths, paths.layers) as one:
            found.append(one.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    assert os.listdir(paths.root / "build") == []
