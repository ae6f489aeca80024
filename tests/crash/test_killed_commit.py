"""kill -9 while a container or a finished directory becomes a layer, and while images are saved and loaded:
nothing half-made is taken for whole, nothing stays frozen, and the next try succeeds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import attend
from runtime.linux import cgroups
from runtime.prepare import cgroup_path
from tests.crash.bomb import REPOSITORY
from tests.crash.box import Box, share, until
from tests.kernel import images_box
from tests.kernel.images_box import Layout, directory, file, layer, store

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CHANGES = re.compile(
    r"""runtime/(
    database.py:Database.write
    | linux/cgroups.py:Cgroups.(freeze|thaw)
    | images/blobs.py:(BlobStore.(_fill|put|fetch|incoming)|Writer.write|Incoming.(write|keep)|sync_directory)
    | images/changes.py:_Writer.(_enter|_leave|_set_time|_flush)
    | images/compose.py:(Composer.(copy_layer|unpack_copy|_adopt|add_image)|_locked)
    | images/layers.py:(LayerStore.(_make|_run)|_Worker.(__init__|feed|go|hear))
    | images/bring.py:Bringer.(_take|_record)
    | images/sinks.py:(TarSink.(_copy|close)|written)
    )\ (call|return)""",
    re.VERBOSE,
)

SPEC = """
[container.web]
image = "busy:1"
command = ["sh", "-c", "echo first > /first; while true; do echo x > /count; usleep 1000; done"]
network_mode = "none"
stop_grace_period = "100ms"
"""


def places(box: Box, *words: str) -> list[str]:
    """Before the first and after the last of each kind of change."""
    found = {place: count for place, count in box.places(*words).items() if CHANGES.fullmatch(place)}
    assert len(found) > 5, found
    return share([f"{place} {1 if place.endswith('call') else count}" for place, count in found.items()])


def verified(root: Path) -> None:
    """After a sweep every blob has the bytes of its name, every layer the content of its diff id."""
    with_store = images_box.Box(root)
    try:
        with_store.store.sweep()
        assert [name for name in with_store.leftovers() if name.startswith(("new.", "."))] == []
        for name in os.listdir(with_store.paths.blobs):
            data = (with_store.paths.blobs / name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == name
        rows = with_store.database.read().execute("SELECT chain_id FROM layers").fetchall()
        for row in rows:
            assert with_store.store.layers.has(row[0])
            for _ in with_store.store.layer_tar(row[0]):
                pass
        assert {row[0][7:] for row in rows} == set(os.listdir(with_store.paths.layers))
    finally:
        with_store.close()


def test_a_commit_killed_anywhere_is_done_by_the_next(box: Box) -> None:
    (box.specs / "shop.toml").write_text(SPEC)
    box.well("apply", str(box.specs))
    record = attend.find(box.paths, "web")
    count = box.paths.container(record.id) / "upper/count"
    until(count.exists, "it writes")
    words = ("container", "commit", "web", "made:1")
    reached = 0
    found = places(box, *words)
    for place in found:
        box.well("image", "rm", "made:1")
        box.well("image", "prune", "-f")  # it may have been killed when all was done
        assert len(os.listdir(box.paths.layers)) == 1, place  # that of busybox
        reached += box.killed(*words, place=place)
        before = count.stat().st_mtime_ns
        until(lambda before=before: count.stat().st_mtime_ns != before, f"it runs on after {place}")  # type: ignore[misc]
        box.well(*words)
        verified(box.base)
        assert box.inventory.strays() == [], place
    assert reached > 0.5 * len(found)
    groups = cgroups.detect()
    assert not groups.v2 or not groups.v2.is_frozen(cgroup_path(record.id))
    box.well("down", str(box.specs))
    box.well("image", "rm", "made:1")


def test_a_load_killed_anywhere_is_done_by_the_next(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    common = layer(directory("d"), file("d/f", os.urandom(300_000)))
    for name in ("one", "two"):
        layout.image([common, layer(file(name))], tag=f"{name}:1")
    words = ("image", "load", "-i", str(layout.path))
    found, reached = places(box, *words), 0
    for place in found:
        for name in ("one:1", "two:1"):
            if name in box.well("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines():
                box.well("image", "rm", name)
        reached += box.killed(*words, place=place)
        assert box.well(*words) == "Loaded image: one:1\nLoaded image: two:1\n", place
        assert len(os.listdir(box.paths.layers)) == 4, place  # and that of busybox
        verified(box.base)
        assert box.inventory.strays() == [], place
    assert reached > 0.5 * len(found)


def test_a_save_killed_anywhere_leaves_the_file_of_before(box: Box, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    target = tmp_path / "saved/busy.tar"
    words = ("image", "save", "-o", str(target), "busy:1")
    found = places(box, *words)
    whole = target.read_bytes()
    for place in found:
        target.write_text("what was here before")
        if box.killed(*words, place=place):
            assert target.read_bytes() in (b"what was here before", whole), place
        box.well(*words)
        assert target.read_bytes() == whole, place


_ADOPTION = re.compile(
    r"""runtime/(
    database.py:Database.write
    | linux/libc.py:call
    | images/blobs.py:sync_directory
    | images/changes.py:_Writer.(_flush|_set_time)
    | images/compose.py:(Composer._adopt|_locked)
    )\ (call|return)""",
    re.VERBOSE,
)
_COMMIT = f"""
import sys
sys.path.insert(0, {REPOSITORY!r})
from pathlib import Path
from tests.crash.bomb import Bomb
from tests.kernel.images_box import Box
box = Box(Path(sys.argv[1]))
upper = Path(sys.argv[2])
bomb = Bomb(sys.argv[3], Path(sys.argv[4]))
bomb.arm()
print(box.store.commit_layer(upper, "", epoch=1).chain_id)
sys.setprofile(None)
import json
Path(sys.argv[4]).write_text(json.dumps(bomb.seen))
"""


def test_a_directory_that_becomes_a_layer_is_one_or_the_other_wherever_it_is_killed(tmp_path: Path) -> None:
    """Afterwards the directory is there still, or the whole layer, which a sweep takes."""
    with store(tmp_path / "box") as box:
        upper, notes = box.paths.root / "upper", tmp_path / "notes"

        def commit(place: str) -> subprocess.CompletedProcess[str]:
            for name in ("d", "e"):
                (upper / name).mkdir(parents=True, exist_ok=True)
                (upper / name / "f").write_text(name * 5000)
            words = [sys.executable, "-c", _COMMIT, str(box.root), str(upper), place, str(notes)]
            return subprocess.run(words, stdout=subprocess.PIPE, text=True)

        assert commit("").returncode == 0
        seen = json.loads(notes.read_text())
        found = [f"{place} 1" for place in seen if _ADOPTION.fullmatch(place)]
        assert len(found) > 7
        box.store.sweep()
        for place in found:
            done = commit(place)
            assert done.returncode == -signal.SIGKILL, place
            layers = [name for name in os.listdir(box.paths.layers) if not name.startswith(".")]
            assert upper.exists() != bool(layers), place
            for name in layers:
                assert (box.paths.layers / name / "e/f").read_text() == "e" * 5000, place
            again = commit("")
            assert again.returncode == 0, place
            with box.store.hold():
                data = b"".join(box.store.layer_tar(again.stdout.strip()))
            assert images_box.digest(data) == again.stdout.strip(), place
            verified(box.root)
            assert os.listdir(box.paths.layers) == [], place
