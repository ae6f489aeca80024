"""Layers that were made to do harm: what they reach for stays as it was, and nothing of them is kept."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.faults import Fault
from runtime.images.layers import LayerJob, LayerStore
from runtime.images.unpack import MAX_REMEMBERED
from runtime.images.worker import FREE_EXPANSION, MAX_EXPANSION
from tests.kernel.images_box import (
    Item,
    device,
    digest,
    directory,
    file,
    hardlink,
    layer,
    symlink,
    tree,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
FRAME = 64 * 1024 * 1024  # bytes of zeros in one compressed frame


def forget(layers: LayerStore, chain_id: str) -> None:
    """What a chance unpacking made."""
    hidden = layers.hide(chain_id)
    if hidden is not None:
        layers.discard(hidden)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A layer store's directory, in memory: some of what comes here is large."""
    base = tmp_path / "memory"
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g", "none", str(base)], check=True)
    try:
        (base / "layers").mkdir()
        (base / "outside").mkdir()
        yield base
    finally:
        subprocess.run(["umount", str(base)], check=True)


def unpack(place: Path, data: Callable[[], Iterable[bytes]], diff_id: str = "") -> None:
    LayerStore(place / "layers").unpack(LayerJob("sha256:" + "1" * 64, diff_id, (), data), "evil:1")


def refusal(place: Path, *pieces: bytes) -> Fault:
    """Why it is refused; nothing of it is there then."""
    with pytest.raises(Fault) as caught:
        unpack(place, lambda: pieces)
    assert os.listdir(place / "layers") == []
    return caught.value


# ---------------------------------------------------------------- large out of small


@pytest.mark.parametrize("kind", ["bzip2", "zstd", "gzip"])
def test_ten_gigabytes_of_zeros_are_refused_by_a_limit_that_has_a_name(place: Path, kind: str) -> None:
    compress = {"bzip2": bz2.compress, "zstd": zstd.compress, "gzip": gzip.compress}[kind]
    info = tarfile.TarInfo("zeros")
    info.size = 10 * 1024**3
    frame = compress(bytes(FRAME))
    pieces = [compress(info.tobuf()), *[frame] * (info.size // FRAME)]
    assert kind == "gzip" or sum(map(len, pieces)) < 400_000
    assert kind != "bzip2" or sum(map(len, pieces)) < 20_000
    fault = refusal(place, *pieces)
    assert fault.code == "layer-invalid"
    assert f"more than {MAX_EXPANSION} times its" in fault.cause
    assert FREE_EXPANSION == 1 << 30


def test_a_sparse_file_of_terabytes_takes_no_room(place: Path) -> None:
    source = place / "source"
    source.mkdir()
    with (source / "holes").open("wb") as made:
        made.truncate(200 * 1024**2)
    data = subprocess.run(
        ["tar", "-C", str(source), "--sparse", "--format=pax", "-cf", "-", "holes"],
        check=True,
        capture_output=True,
    ).stdout
    unpack(place, lambda: [data], digest(data))
    (found,) = (place / "layers").glob("*/holes")
    assert (found.stat().st_size, found.stat().st_blocks) == (200 * 1024**2, 0)


def test_names_that_must_be_remembered_have_a_limit(place: Path) -> None:
    """Of a million whiteouts no file is made: they would only fill the memory."""

    def headers() -> Iterator[bytes]:
        """A header's sum does not see in which order the letters of its name are."""
        names = itertools.permutations("abcdefghij")
        first = ".wh." + "".join(next(names))
        rest = tarfile.TarInfo(first).tobuf()[len(first) :]
        for _ in range(1000):
            yield b"".join(f".wh.{''.join(name)}".encode() + rest for name in itertools.islice(names, 1000))

    with pytest.raises(Fault, match=f"more than {MAX_REMEMBERED} directories, whiteouts and hard links"):
        unpack(place, headers)
    assert os.listdir(place / "layers") == []


#: in a small process, since a child begins with the mark of the one that it was born of
MEASURE = """
import hashlib, resource, sys, tarfile
from pathlib import Path
from runtime.images.layers import LayerJob, LayerStore

def pieces():
    for number in range(60_000):
        yield tarfile.TarInfo(f"f{number}").tobuf()
    yield bytes(1024)

digest = hashlib.sha256()
for piece in pieces():
    digest.update(piece)
job = LayerJob("sha256:" + "1" * 64, f"sha256:{digest.hexdigest()}", (), pieces)
LayerStore(Path(sys.argv[1])).unpack(job, "many")
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_many_files_take_no_memory_each(place: Path) -> None:
    words = [sys.executable, "-c", MEASURE, str(place / "layers")]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    (made,) = (place / "layers").iterdir()
    assert len(os.listdir(made)) == 60_000
    assert int(done.stdout) < 40_000  # KiB


def test_a_name_that_comes_again_and_again_is_one_file(place: Path) -> None:
    block = tarfile.TarInfo("same").tobuf()
    data = block * 20_000 + bytes(1024)
    unpack(place, lambda: [data], digest(data))
    assert len(list((place / "layers").glob("*/*"))) == 1


def test_a_pax_header_without_an_end_is_refused(place: Path) -> None:
    info = tarfile.TarInfo("x")
    info.size = 1 << 40
    block = info.tobuf(tarfile.USTAR_FORMAT) if info.size < 1 << 33 else info.tobuf(tarfile.GNU_FORMAT)
    block = block[:156] + b"x" + block[157:]
    total = sum(block[:148]) + 256 + sum(block[156:512])
    block = block[:148] + b"%06o\0 " % total + block[156:]
    fault = refusal(place, block, bytes(100_000))
    assert fault.code == "layer-invalid" and "pax header" in fault.cause


def test_an_entry_with_an_endless_name_is_refused_by_its_beginning(place: Path) -> None:
    fault = refusal(place, layer(file("\u00ff" * 300_000, "x")))
    assert fault.code == "layer-invalid"
    assert fault.cause.endswith("its name has more than 4000 bytes")
    assert fault.cause.startswith("entry '\u00ff\u00ff")


def test_a_stream_that_wants_a_gigabyte_of_memory_is_refused(place: Path) -> None:
    data = layer(file("f", "x"))
    modest, greedy = (
        lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << bits}])
        for bits in (26, 30)
    )
    unpack(place, lambda: [modest], digest(data))
    forget(LayerStore(place / "layers"), "sha256:" + "1" * 64)
    fault = refusal(place, greedy)
    assert fault.code == "layer-invalid" and "memory usage limit" in fault.cause


# ---------------------------------------------------------------- out of the root


def names(outside: str) -> st.SearchStrategy[str]:
    """Names that lead astray, alone or together."""
    parts = st.sampled_from(["a", "b", "..", ".", "", "link", ".wh.a", ".wh..wh..opq", ".wh..", ".wh..."])
    inside = st.lists(parts, min_size=1, max_size=4).map("/".join)
    fixed = st.sampled_from([outside, f"..{outside}", f"../../../../../../../..{outside}", f"{outside}/kept"])
    return st.one_of(inside, fixed, st.just("link/kept"), st.just("link/new"))


def items(outside: str) -> st.SearchStrategy[list[Item]]:
    name = names(outside)
    return st.lists(
        st.one_of(
            st.builds(lambda n: file(n, "evil"), name),
            st.builds(lambda n: directory(n, uid=1), name),
            st.builds(symlink, st.sampled_from(["link", "a", "a/link"]), name),
            st.builds(hardlink, name, name),
            st.builds(lambda n: device(n, tarfile.FIFOTYPE, mode=0o666), name),
            st.builds(lambda n: device(n, tarfile.CHRTYPE, 1, 3), name),
            st.builds(lambda n: device(n, tarfile.CHRTYPE), name),
        ),
        min_size=1,
        max_size=6,
    )


def test_no_archive_touches_what_is_outside(place: Path) -> None:
    outside = place / "outside"
    (outside / "kept").write_text("as it was")
    (outside / "folder").mkdir()
    before = tree(outside)

    @given(items(str(outside)))
    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    def attempt(given_items: list[Item]) -> None:
        data = layer(*given_items)
        try:
            unpack(place, lambda: [data], digest(data))
        except Fault as fault:
            assert fault.code == "layer-invalid", fault
            assert os.listdir(place / "layers") == []
        else:
            forget(LayerStore(place / "layers"), "sha256:" + "1" * 64)
        assert tree(outside) == before
        assert os.listdir(place) == ["outside", "layers"] or set(os.listdir(place)) == {"outside", "layers"}

    attempt()


# ---------------------------------------------------------------- damage

SAMPLE = layer(
    directory("d", mode=0o2755, uid=3),
    file("d/" + "long" * 40, os.urandom(3000)),
    hardlink("linked", "d/" + "long" * 40),
    symlink("s", "d"),
    device("pipe", tarfile.FIFOTYPE),
    file("noted", "x", pax_headers={"SCHILY.xattr.user.note": "v"}),
)


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd"])
def test_an_archive_cut_anywhere_is_refused(place: Path, form: str) -> None:
    compress: Callable[[bytes], bytes] = {"plain": bytes, "gzip": gzip.compress, "zstd": zstd.compress}[form]
    whole = compress(SAMPLE)
    unpack(place, lambda: [whole], digest(SAMPLE))
    forget(LayerStore(place / "layers"), "sha256:" + "1" * 64)

    @given(st.integers(0, len(whole) - 1))
    @settings(deadline=None, max_examples=25)
    def attempt(length: int) -> None:
        with pytest.raises(Fault) as caught:
            unpack(place, lambda: [whole[:length]], digest(SAMPLE))
        assert caught.value.code in ("layer-invalid", "digest-mismatch")
        assert os.listdir(place / "layers") == []

    attempt()


def test_an_archive_with_one_other_byte_anywhere_is_refused(place: Path) -> None:
    @given(st.integers(0, len(SAMPLE) - 1), st.integers(1, 255))
    @settings(deadline=None, max_examples=40)
    def attempt(position: int, change: int) -> None:
        damaged = bytearray(SAMPLE)
        damaged[position] ^= change
        with pytest.raises(Fault) as caught:
            unpack(place, lambda: [bytes(damaged)], digest(SAMPLE))
        assert caught.value.code in ("layer-invalid", "digest-mismatch")
        assert os.listdir(place / "layers") == []

    attempt()
