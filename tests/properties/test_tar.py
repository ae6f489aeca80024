"""Whatever tarfile writes we read; whatever layers say, overlayfs shows what applying them in order gives."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.images.layers import LayerJob, LayerStore, chain_ids
from runtime.images.tarstream import Reader, Source, TarError
from runtime.linux import mounts, overlay
from tests.kernel.images_box import digest, directory, file, layer

text = st.text(
    st.characters(blacklist_characters="\0/", blacklist_categories=("Cs",)), min_size=1, max_size=120
)
members = st.lists(
    st.tuples(
        text.filter(lambda item: item.strip() == item),
        st.binary(max_size=2000),
        st.integers(0, 0o7777),
        st.integers(0, 2**32 - 2),
        st.integers(0, 2**33),
    ),
    max_size=6,
)


@given(members, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
@settings(deadline=None, max_examples=100)
def test_what_tarfile_writes_is_read(items: list, form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data, mode, owner, mtime in items:
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid, info.mtime, info.size = mode, owner, owner, mtime, len(data)
            archive.addfile(info, io.BytesIO(data))
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(buffer.getvalue())
        source.seek(0)
        found = []
        reader = Reader(Source(source.fileno()))
        for entry in reader:
            os.lseek(target.fileno(), 0, os.SEEK_SET)
            reader.source.copy(target.fileno(), entry.size)
            data = os.pread(target.fileno(), entry.size, 0)
            found.append((os.fsdecode(entry.name), data, entry.mode, entry.uid, entry.mtime // 10**9))
    assert found == items


@given(st.binary(max_size=3000), st.integers(0, 3000), st.binary(max_size=20))
@settings(deadline=None, max_examples=150)
def test_damage_raises_nothing_but_tar_errors(tail: bytes, position: int, change: bytes) -> None:
    good = layer(file("a" * 150, b"x" * 700), directory("d", pax_headers={"SCHILY.xattr.user.x": "1"}))
    data = good[:position] + change + good[position + len(change) :] + tail
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.seek(0)
        try:
            for _ in Reader(Source(source.fileno())):
                pass
        except TarError:
            pass


# ---------------------------------------------------------------- layers against a model

NAMES = ["a", "b"]
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
steps = st.lists(st.tuples(st.sampled_from(["file", "directory", "whiteout", "opaque"]), paths), max_size=7)
Tree = dict[str, str]  # path -> "" for a directory, or a file's content


def below(tree: Tree, path: str) -> list[str]:
    return [name for name in tree if name.startswith(path + "/")]


def apply(lower: Tree, layer_steps: list[tuple[str, str]], mark: str) -> Tree | None:
    """What the layer gives, by the words of the OCI specification; None: it contradicts itself."""
    own: Tree = {}
    hidden, opaque = set(), set()
    for kind, path in layer_steps:
        parts = path.split("/")
        parents = ["/".join(parts[:count]) for count in range(1, len(parts))]
        if kind == "opaque":
            parents.append(path)
        for parent in parents if kind != "whiteout" else []:
            if own.setdefault(parent, "") != "":
                return None
        if kind == "file":
            if below(own, path) or own.get(path) == "":
                return None
            own[path] = mark
        elif kind == "directory":
            if own.get(path, "") != "":
                return None
            own[path] = ""
        elif kind == "opaque":
            opaque.add(path)
        else:
            if any(own.get(parent, "") != "" for parent in parents):
                return None
            hidden.add(path)
    if any(
        own.get("/".join(path.split("/")[:n]), "") for path in hidden for n in range(1, path.count("/") + 1)
    ):
        return None
    result: Tree = {}
    for name, content in lower.items():
        parts = name.split("/")
        chain = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if any(item in hidden for item in chain) or any(item in opaque for item in chain[:-1]):
            continue
        if any(own.get(item, "") != "" for item in chain):
            continue
        result[name] = content
    for name in own:
        if own[name] == "" and result.get(name):
            if not any(kind == "directory" and path == name for kind, path in layer_steps):
                return None  # an implied directory over a lower file: refused
            del result[name]
    return {**result, **own}


def read(root: Path) -> Tree:
    found: Tree = {}
    for folder, folders, files in os.walk(root):
        for name in folders:
            found[os.path.relpath(os.path.join(folder, name), root)] = ""
        for name in files:
            path = Path(folder, name)
            found[os.path.relpath(path, root)] = path.read_text()
    return found


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@given(st.lists(steps, min_size=1, max_size=3))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
def test_overlays_of_unpacked_layers_show_what_the_specification_says(layers: list) -> None:
    expected: Tree = {}
    archives = []
    for number, items in enumerate(layers):
        after = apply(expected, items, f"layer {number}")
        if after is None:
            break
        expected = after
        made = []
        for kind, path in items:
            folder, _, name = path.rpartition("/")
            inside = f"{folder}/" if folder else ""
            made.append(
                {
                    "file": lambda p=path, n=number: file(p, f"layer {n}"),
                    "directory": lambda p=path: directory(p),
                    "whiteout": lambda i=inside, n=name: file(f"{i}.wh.{n}"),
                    "opaque": lambda p=path: file(f"{p}/.wh..wh..opq"),
                }[kind]()
            )
        archives.append(layer(*made))
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for name in ("layers", "upper", "work", "merged"):
            (root / name).mkdir()
        store = LayerStore(root / "layers")
        diff_ids = [digest(item) for item in archives]
        chain = chain_ids(diff_ids)
        for index, archive in enumerate(archives):
            store.unpack(LayerJob(chain[index], diff_ids[index], chain[:index], lambda a=archive: [a]), "x")
        if not archives:
            return
        lowers = [store.path(item) for item in reversed(chain)]
        overlay.mount(lowers, root / "upper", root / "work", root / "merged")
        try:
            assert read(root / "merged") == expected
        finally:
            mounts.unmount(root / "merged")
