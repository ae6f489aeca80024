"""What --chmod and --chown mean, which steps leave the cache, what a block of an archive is."""

from __future__ import annotations

import io
import tarfile

import pytest

from runtime.build.archive import is_archive, is_header
from runtime.build.cache import Step, key_of, surplus
from runtime.build.modes import parse_mode
from runtime.build.owners import find_owner
from runtime.build.places import clean
from runtime.build.remote import Repository, repository, shown

PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/:\nbroken:x:one:two\n"
GROUP = "root:x:0:\nstaff:x:50:web\n"


@pytest.mark.parametrize(
    ("text", "before", "is_dir", "after"),
    [
        ("644", 0o755, False, 0o644),
        ("4711", 0o644, False, 0o4711),
        ("0", 0o644, False, 0),
        ("u+x", 0o644, False, 0o744),
        ("go-rwx", 0o755, False, 0o700),
        ("a=r", 0o755, False, 0o444),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("+t", 0o755, True, 0o1755),
        ("u+s,g+s", 0o755, False, 0o6755),
        ("g+s", 0o755, True, 0o2755),
        ("u=rwx", 0o4755, True, 0o4755),
        ("u=rwx", 0o4755, False, 0o755),
        ("u+r-w", 0o600, False, 0o400),
    ],
)
def test_modes_are_octal_or_changes(text: str, before: int, is_dir: bool, after: int) -> None:
    assert oct(parse_mode(text)(before, is_dir)) == oct(after)


@pytest.mark.parametrize("text", ["", "888", "12345", "rwx", "u+q", "u", "-1", "u+x,", "0x1"])
def test_other_modes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid mode"):
        parse_mode(text)


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("web", (1000, 1001)),
        ("web:staff", (1000, 50)),
        ("web:7", (1000, 7)),
        ("55", (55, 55)),
        ("55:staff", (55, 50)),
        ("0:0", (0, 0)),
        (":staff", (0, 50)),
        ("1000", (1000, 1000)),
    ],
)
def test_owners_are_names_of_the_image_or_numbers(text: str, owner: tuple[int, int]) -> None:
    assert find_owner(text, PASSWD, GROUP) == owner


@pytest.mark.parametrize("text", ["nobody", "web:nobody", "broken", "99999999999"])
def test_owners_that_the_image_has_not_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"has no|no id"):
        find_owner(text, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("path", "cleaned"), [("/", ""), ("a//b/./c", "a/b/c"), ("../../a", "a"), ("a/../../b", "b"), (".", "")]
)
def test_paths_stay_below_their_root(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned


# ---------------------------------------------------------------- the cache


def step(name: str, size: int, used: float, chain: str = "") -> Step:
    return Step(name, chain or f"sha256:{name}", "", "", size, "", used, name)


def test_the_oldest_steps_go_until_the_rest_fits() -> None:
    steps = [step("new", 10, 3.0), step("middle", 10, 2.0), step("old", 10, 1.0)]
    assert [item.key for item in surplus(steps, limit=20)] == ["old"]
    assert [item.key for item in surplus(steps, limit=5)] == ["old", "middle", "new"]
    assert surplus(steps, limit=30) == []


def test_a_layer_that_two_steps_made_counts_once() -> None:
    steps = [step("a", 10, 3.0, "same"), step("b", 10, 2.0, "same"), step("c", 10, 1.0)]
    assert surplus(steps, limit=20) == []


def test_steps_of_before_a_time_go_whatever_their_size() -> None:
    steps = [step("new", 10, 3.0), step("old", 0, 1.0)]
    assert [item.key for item in surplus(steps, limit=None, before=2.0)] == ["old"]


def test_a_key_does_not_depend_on_the_order_of_names_and_takes_any_bytes() -> None:
    assert key_of(a=1, b="x") == key_of(b="x", a=1)
    assert key_of(a=1) != key_of(a="1")
    assert key_of(path="a\udcff") != key_of(path="a\udcfe")


# ---------------------------------------------------------------- what is fetched and unpacked


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://host/x.git", Repository("https://host/x.git")),
        ("https://host/x.git#v1:sub/dir", Repository("https://host/x.git", "v1", "sub/dir")),
        ("git@host:me/x.git#main", Repository("git@host:me/x.git", "main")),
        ("github.com/me/x", Repository("https://github.com/me/x")),
        ("ssh://git@host/x", Repository("ssh://git@host/x")),
        ("file:///srv/x.git#:../..", Repository("file:///srv/x.git")),
        ("https://host/x.tar.gz", None),
        ("dir/x.git", None),
        ("ftp://host/x.git", None),
    ],
)
def test_some_urls_mean_repositories(text: str, found: Repository | None) -> None:
    assert repository(text) == found


def test_credentials_are_not_shown() -> None:
    assert shown("https://me:secret@host/x") == "https://host/x"
    assert Repository("https://me:secret@host/x.git").shown == "https://host/x.git"


def test_an_archive_is_known_by_its_content() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    assert is_header(out.getvalue()[:512])
    for content in (b"", b"x" * 2000, bytes(2000), b"\x1f\x8b" + b"x" * 600, out.getvalue()[:100]):
        assert not is_archive(io.BytesIO(content))
    assert is_archive(io.BytesIO(out.getvalue()))
