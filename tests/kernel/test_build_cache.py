"""What makes a step be done again, and what does not; what the cache keeps, and how it is made smaller."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.build import prune
from runtime.build.request import BuildRequest
from runtime.faults import Fault
from runtime.images.store import ImageStore
from tests.kernel.build_box import BuildBox, build_box, ref
from tests.kernel.engine_box import rootfs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

THREE = "COPY a /a\nRUN cat /a > /b\nCOPY c /c\n"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[BuildBox]:
    with build_box(tmp_path) as made:
        made.write({"a": "a", "c": "c"})
        yield made


def old(path: Path) -> None:
    """As if it had been written long ago."""
    os.utime(path, (1_000_000_000, 1_000_000_000))


# ---------------------------------------------------------------- the key


def test_a_build_of_which_nothing_changed_does_nothing(box: BuildBox) -> None:
    first = box.build(THREE)
    again = box.build(THREE)
    assert first.cached == [False, False, False]
    assert again.cached == [True, True, True]
    assert again.result.image_id == first.result.image_id


def test_times_of_files_make_no_difference(box: BuildBox) -> None:
    box.build(THREE)
    old(box.context / "a")
    assert box.build(THREE).cached == [True, True, True]


def test_other_content_is_another_step_and_so_is_all_that_follows(box: BuildBox) -> None:
    box.build(THREE)
    box.write({"a": "b"})
    built = box.build(THREE)
    assert built.cached == [False, False, False]
    assert box.read(built.result.image_id, "b") == "b"


def test_the_same_content_written_anew_within_a_tick_is_seen(box: BuildBox) -> None:
    """Sizes and times may be those of before: a file that was just written is read again."""
    for number in range(5):
        box.write({"a": str(number)})
        assert box.read(box.build(THREE).result.image_id, "a") == str(number)


def test_another_mode_is_another_step(box: BuildBox) -> None:
    box.build(THREE)
    (box.context / "a").chmod(0o755)
    assert box.build(THREE).cached == [False, False, False]


def test_a_file_that_is_not_copied_makes_no_difference(box: BuildBox) -> None:
    box.build(THREE)
    box.write({"other": "x"})
    assert box.build(THREE).cached == [True, True, True]


def test_a_file_more_in_a_directory_that_is_copied_is_another_step(box: BuildBox) -> None:
    box.write({"d/x": "x"})
    box.build("COPY d /d")
    box.write({"d/y": "y"})
    assert box.build("COPY d /d").cached == [False]
    (box.context / "d/y").rename(box.context / "d/z")
    assert box.build("COPY d /d").cached == [False]


def test_a_file_that_is_ignored_makes_no_difference(box: BuildBox) -> None:
    box.write({"d/x": "x", ".dockerignore": "d/log\n"})
    box.build("COPY d /d")
    box.write({"d/log": "y"})
    assert box.build("COPY d /d").cached == [True]


def test_a_build_argument_counts_from_where_it_is_declared(box: BuildBox) -> None:
    text = "RUN echo before\nARG V\nRUN echo after\n"
    box.build(text, args={"V": "1"})
    assert box.build(text, args={"V": "2"}).cached == [True, False]
    assert box.build(text, args={"V": "1"}).cached == [True, True]


def test_proxies_make_no_difference_and_are_in_no_history(box: BuildBox) -> None:
    text = "RUN echo $http_proxy"
    first = box.build(text, args={"HTTP_PROXY": "http://one.test"})
    assert first.output == ["http://one.test"]
    assert box.build(text, args={"HTTP_PROXY": "http://two.test"}).cached == [True]
    assert "one.test" not in str(box.config(first.result.image_id))


def test_a_stage_that_comes_to_the_same_files_keeps_what_was_copied_of_it(box: BuildBox) -> None:
    made = "FROM tests/busybox:1 AS made\nARG V\nRUN echo $V > /v; echo same > /f\n"
    text = made + "FROM scratch\nCOPY --from=made /f /f\n"
    box.build(text, args={"V": "1"})
    assert box.build(text, args={"V": "2"}).cached == [False, True]


def test_steps_are_shared_between_builds_of_other_names(box: BuildBox) -> None:
    box.build(THREE, names=(ref("one:1"),))
    assert box.build(THREE + "LABEL a=b\n", names=(ref("two:1"),)).cached == [True, True, True]


def test_another_base_is_another_step(box: BuildBox, tmp_path: Path) -> None:
    box.build("RUN true")
    root = rootfs(tmp_path / "other")
    (root / "new").write_text("new")
    box.runtime.import_image(root, ref("tests/busybox:1"))
    assert box.build("RUN true").cached == [False]


def test_without_the_cache_everything_is_done(box: BuildBox) -> None:
    box.build(THREE)
    assert box.build(THREE, no_cache=True).cached == [False, False, False]


def test_one_stage_alone_is_done_anew(box: BuildBox) -> None:
    one, two = (f"FROM tests/busybox:1 AS {name}\nRUN echo {name}\n" for name in ("one", "two"))
    text = one + two + "COPY --from=one /etc/passwd /\n"
    box.build(text)
    built = box.build(text, no_cache_filter=("two",))
    assert sorted(built.cached) == [False, False, True]


def test_a_layer_that_is_gone_is_made_again(box: BuildBox) -> None:
    built = box.build(THREE)
    found = box.runtime.images.get(built.result.image_id)
    assert found is not None
    shutil.rmtree(box.runtime.images.layers.path(found.chain_ids[-1]))
    assert box.build(THREE).cached == [True, True, False]


def test_two_builds_of_the_same_at_once_come_to_one_image(box: BuildBox) -> None:
    found: list[str] = []
    request = box.request(THREE, names=(ref("same:1"),))
    threads = [
        threading.Thread(target=lambda: found.append(box.runtime.builder.build(request).image_id))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    image = box.runtime.images.get("same:1")
    assert image is not None and len(found) == 3 and image.id in found


# ---------------------------------------------------------------- what is kept


def test_steps_outlive_the_image_and_its_base(box: BuildBox) -> None:
    built = box.build(THREE, names=(ref("mine:1"),))
    box.runtime.images.remove("mine:1")
    box.runtime.images.collector.collect()
    assert box.runtime.images.get(built.result.image_id) is None
    again = box.build(THREE)
    assert again.cached == [True, True, True]
    assert again.result.image_id == built.result.image_id


def test_what_is_pruned_goes_from_the_disk_unless_an_image_has_it(box: BuildBox) -> None:
    store: ImageStore = box.runtime.images
    box.build(THREE, names=(ref("kept:1"),))
    box.build("RUN echo gone > /gone")
    store.remove(box.build("RUN echo gone > /gone", names=(ref("gone:1"),)).result.image_id)
    before = len(store.layers.chain_ids())
    steps, _ = prune.prune(box.paths, box.runtime.builder.cache)
    store.collector.collect()
    assert len(steps) == 4
    assert len(store.layers.chain_ids()) == before - 1
    assert store.check(store.get("kept:1").id)  # type: ignore[union-attr]
    assert box.build(THREE).cached == [False, False, False]


def test_the_least_recently_used_goes_first(box: BuildBox) -> None:
    cache = box.runtime.builder.cache
    for name in ("one", "two", "three"):
        box.build(f"RUN dd if=/dev/zero of=/{name} bs=100k count=1")
    newest = cache.steps()[0]
    cache.touch([replace(step, used=0.0) for step in cache.steps() if "/one" in step.text], time.time() + 10)
    gone, _ = prune.prune(box.paths, cache, limit=2 * newest.size)
    assert [step.text.split("/")[3].split()[0] for step in gone] == ["two"]


def test_caches_of_mounts_are_pruned_unless_a_step_has_them(box: BuildBox) -> None:
    box.build("RUN --mount=type=cache,target=/c touch /c/x")
    _, mounts = prune.prune(box.paths, box.runtime.builder.cache, before=time.time() - 1000)
    assert mounts == []
    _, mounts = prune.prune(box.paths, box.runtime.builder.cache)
    assert len(mounts) == 1
    assert os.listdir(box.paths.root / "build" / "cache") == []


# ---------------------------------------------------------------- reproducible


def test_two_machines_make_the_same_bytes_of_an_epoch(tmp_path: Path) -> None:
    ids, layers = [], []
    for name in ("one", "two"):
        with build_box(tmp_path / name) as box:
            box.write({"a": "a", "d/x": "x", "bin/sh": Path("/usr/bin/busybox").read_bytes()})
            built = box.build(
                "FROM scratch\nWORKDIR /w\nCOPY --chmod=755 bin /bin\nCOPY . .\nARG SOURCE_DATE_EPOCH\n"
                "RUN echo $SOURCE_DATE_EPOCH > /made; mkdir /dir\n",
                epoch=1_700_000_000,
            )
            assert box.read(built.result.image_id, "made") == "1700000000\n"
            found = box.runtime.images.get(built.result.image_id)
            assert found is not None
            ids.append(found.id)
            layers.append(found.config["rootfs"]["diff_ids"])
            assert found.config["created"] == "2023-11-14T22:13:20Z"
    assert layers[0] == layers[1]
    assert ids[0] == ids[1]


# ---------------------------------------------------------------- the identity of a build


@pytest.mark.parametrize("change", ["file", "mode", "argument", "dockerfile", "target", "base"])
def test_the_identity_changes_with_what_the_build_is_made_from(
    box: BuildBox, change: str, tmp_path: Path
) -> None:
    request: BuildRequest = box.request("FROM tests/busybox:1 AS x\nARG V\nCOPY a /a\nFROM x\n")
    before = box.runtime.builder.inputs(request).key
    match change:
        case "file":
            box.write({"a": "other"})
        case "mode":
            (box.context / "a").chmod(0o700)
        case "argument":
            request = replace(request, args={"V": "1"})
        case "dockerfile":
            request = replace(request, dockerfile_text=b"FROM tests/busybox:1\n")
        case "target":
            request = replace(request, target="x")
        case "base":
            root = rootfs(tmp_path / "other")
            (root / "new").write_text("new")
            box.runtime.import_image(root, ref("tests/busybox:1"))
    assert box.runtime.builder.inputs(request).key != before


def test_the_identity_does_not_change_with_anything_else(box: BuildBox) -> None:
    box.write({".dockerignore": "log\n", "log": "1"})
    request = box.request("COPY a /a\n")
    before = box.runtime.builder.inputs(request).key
    old(box.context / "a")
    box.write({"log": "2"})
    box.runtime.build_image(request)
    assert box.runtime.builder.inputs(request).key == before


def test_a_build_that_cannot_be_has_no_identity(box: BuildBox) -> None:
    with pytest.raises(Fault) as fault:
        box.runtime.builder.inputs(box.request("COYP a /a\n"))
    assert fault.value.code == "dockerfile-invalid"
