"""Headers that we write, read by Python's tarfile and by GNU tar."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from runtime.images.tarstream import BLOCK, CHAR, DIRECTORY, FILE, LINK, SYMLINK
from runtime.images.tarwriter import END, file, header, padding


def read(data: bytes) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(data + END)) as archive:
        (found,) = archive.getmembers()
        return found


@pytest.mark.parametrize("size", [5, 99, 100, 101, 102, 155, 156, 250, 255, 256, 257, 1000])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_names_of_every_length_are_read_as_they_are(size: int, depth: int) -> None:
    name = ("d" * (size // depth) + "/") * (depth - 1) + "f" * (size // depth)
    assert read(header(name.encode(), FILE, mode=0o644)).name == name
    directory = read(header(name.encode() + b"/", DIRECTORY, mode=0o755))
    assert (directory.name, directory.isdir()) == (name, True)
    assert read(header(b"l", SYMLINK, mode=0o777, link=name.encode())).linkname == name
    assert read(header(b"l", LINK, mode=0o644, link=name.encode())).linkname == name


def test_a_name_that_fits_needs_no_more_than_one_block() -> None:
    fits = b"d" * 155 + b"/" + b"f" * 100
    assert len(header(fits, FILE, mode=0o644)) == BLOCK
    assert len(header(fits + b"f", FILE, mode=0o644)) == 3 * BLOCK
    assert len(header(b"f\n", FILE, mode=0o644)) == 3 * BLOCK


@pytest.mark.parametrize("uid", [0, 0o7777777, 0o7777777 + 1, 2**32 - 2])
@pytest.mark.parametrize("size", [0, 8 * 2**30 - 1, 8 * 2**30])
@pytest.mark.parametrize("mtime", [0, 16 * 10**17, 1_600_000_000_500_000_000, -5_000_000_000, 2**33 * 10**9])
def test_numbers_of_every_size_are_read_as_they_are(uid: int, size: int, mtime: int) -> None:
    data = header(b"f", FILE, mode=0o6755, uid=uid, gid=uid, size=size, mtime=mtime)
    found = tarfile.TarFile(fileobj=io.BytesIO(data + END)).firstmember  # it does not look for the data
    assert found is not None
    assert (found.uid, found.gid, found.size, found.mode) == (uid, uid, size, 0o6755)
    assert found.mtime == mtime / 10**9


def test_devices_and_attributes_are_read_as_they_are() -> None:
    found = read(
        header(
            b"n", CHAR, mode=0o600, device=os.makedev(10, 130), xattrs={b"user.a": b"\0\n=", b"user.b": b""}
        )
    )
    assert (found.devmajor, found.devminor, found.ischr()) == (10, 130, True)
    assert found.pax_headers["SCHILY.xattr.user.a"] == "\0\n="
    assert found.pax_headers["SCHILY.xattr.user.b"] == ""


def test_gnu_tar_lists_what_we_write(tmp_path: Path) -> None:
    names = ["short", "d" * 120 + "/" + "f" * 90, "x" * 300, "line\nbreak", "é"]
    data = b"".join(file(name, name.encode(), mtime=10**18 + 7) for name in names)
    (tmp_path / "a.tar").write_bytes(data + END)
    done = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", str(tmp_path / "a.tar")], check=True, capture_output=True
    )
    assert done.stderr == b""
    assert done.stdout.decode() == "".join(f"{name}\n" for name in names)
    assert len(padding(0)) == 0 and len(padding(1)) == BLOCK - 1
