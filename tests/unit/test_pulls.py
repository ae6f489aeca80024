"""When a registry is asked for an image, and what a lock file says."""

from __future__ import annotations

import pytest

from specs.pulls import read_lock
from tests.spec_text import desired_of, read

A = "sha256:" + "a" * 64
LOCK = f'version = 1\n[digest]\n"docker.io/library/nginx:1" = "{A}"\n'


def image_of(pull: str, field: str = "pull") -> tuple[str, float]:
    if field == "pull":
        text = f'[image.a]\nfrom = "x"\npull = "{pull}"\n'
    else:
        text = f'[container.a]\nimage = "x"\npull_policy = "{pull}"\n'
    (image,) = desired_of({"a.toml": text}).images.values()
    return image.pull, image.interval


@pytest.mark.parametrize("field", ["pull", "pull_policy"])
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("always", ("always", 0.0)),
        ("missing", ("missing", 0.0)),
        ("if_not_present", ("missing", 0.0)),
        ("never", ("never", 0.0)),
        ("daily", ("missing", 86400.0)),
        ("weekly", ("missing", 604800.0)),
        ("every_1d12h", ("missing", 129600.0)),
        ("5m", ("missing", 300.0)),
    ],
)
def test_every_word_of_compose_and_a_duration_are_pull_policies(
    field: str, written: str, meant: tuple[str, float]
) -> None:
    assert image_of(written, field) == meant


def test_of_two_policies_for_one_image_the_more_eager_part_of_each_holds() -> None:
    text = '[image.a]\nfrom = "x"\npull = "weekly"\n[container.b]\nimage = "a"\npull_policy = "1h"\n'
    text += '[container.c]\nimage = "x"\npull_policy = "always"\n'
    (image,) = desired_of({"a.toml": text}).images.values()
    assert (image.pull, image.interval) == ("always", 3600.0)


def test_with_a_lock_file_every_tag_has_a_digest() -> None:
    files = {"a.toml": '[container.a]\nimage = "nginx:1"\n', "stead.lock.toml": LOCK}
    (image,) = desired_of(files).images.values()
    assert (str(image.ref), image.digest) == ("docker.io/library/nginx:1", A)


def test_a_tag_that_the_lock_file_lacks_is_a_problem_at_its_place() -> None:
    text = '[image.a]\nfrom = "redis"\n[container.b]\nimage = "nginx:1"\n[container.c]\nimage = "nginx:2"\n'
    assert read({"a.toml": text, "stead.lock.toml": LOCK})[1] == [
        "a.toml:1:1: image 'redis:latest' is not in stead.lock.toml (run stead lock)",
        "a.toml:5:1: image 'nginx:2' is not in stead.lock.toml (run stead lock)",
    ]


def test_what_no_registry_is_asked_for_needs_no_lock() -> None:
    text = f'[image.a]\nfrom = "x@{A}"\n[image.b]\nfrom = "y"\npull = "never"\n[image.c]\nbuild = "."\n'
    images = desired_of({"a.toml": text, "stead.lock.toml": LOCK}).images
    assert [image.digest for image in images.values()] == ["", "", ""]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version = 3", "1:1: cannot read the lock: its version is 3, not 2 or less (run stead lock)"),
        ("version = true", "1:1: cannot read the lock: its version is True, not 2 or less"),
        ("version = 0", "1:1: cannot read the lock: its version is 0, not 2 or less"),
        (
            "version = 1\nx = 1",
            "1:1: cannot read the lock: it has version and a table digest, and nothing else",
        ),
        ("version = ", "cannot read the lock: invalid value"),
        (
            f'version = 1\n[digest]\n"a" = "{A}"\n"b" = "x"',
            "4:1: cannot read the lock: cannot read digest 'x'",
        ),
        (f'version = 1\n[digest]\n"A" = "{A}"', "3:1: cannot read the lock: cannot read image reference 'A'"),
    ],
)
def test_a_lock_file_that_cannot_be_read_is_a_problem_of_its_own(text: str, problem: str) -> None:
    (found,) = read({"a.toml": '[container.a]\nimage = "nginx:1"\n', "stead.lock.toml": text})[1]
    assert found.startswith("stead.lock.toml:") and problem in found


def test_a_lock_file_below_the_root_is_refused_and_not_read_as_a_spec() -> None:
    found = read({"x/stead.lock.toml": LOCK, ".y/stead.lock.toml": LOCK})[1]
    assert found == [
        "x/stead.lock.toml:1:1: a lock file below the root of the source"
        " (run stead lock on the source's root)"
    ]


def test_a_lock_is_read_with_every_name_in_full() -> None:
    lock, found = read_lock(f'version = 1\n[digest]\n"nginx" = "{A}"\n'.encode())
    assert not found and dict(lock.digests) == {"docker.io/library/nginx:latest": A}
