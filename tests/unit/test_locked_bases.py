"""Which base images a source's builds take from registries, and what its lock file says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from agent import buildfiles, render
from agent.desired import Resolved, load_directory
from specs.desired import Desired

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
LOCK = f'version = 2\n[digest]\n"docker.io/library/busy:1" = "{A}"\n'
DOCKERFILE = """ARG VERSION=1
FROM golang:${VERSION} AS build
FROM alpine AS unused
FROM busy:1 AS prod
COPY --from=build /app /app
RUN --mount=from=tools:2,target=/t true
FROM prod AS last
"""


def load(where: Path, files: Mapping[str, str], *, kept: bool = False) -> Resolved:
    for name, text in files.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load_directory(where, kept=kept)


def good(found: Resolved) -> Desired:
    assert found.desired is not None, found.problems
    return found.desired


def bases(where: Path, dockerfile: str, build: str = 'context = "."', more: str = "") -> list[str]:
    files = {"a.toml": f"[image.a]\nbuild = {{ {build} }}\n{more}", "Dockerfile": dockerfile}
    found = buildfiles.bases(good(load(where, files)))
    assert found.problems == () and found.places.keys() == found.refs.keys()
    return [ref.familiar for ref in found.refs.values()]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ('context = "."', ["busy:1", "golang:1", "tools:2"]),
        ('args = { VERSION = "1.22" }', ["busy:1", "golang:1.22", "tools:2"]),
        ('target = "unused"', ["alpine:latest"]),
        ('target = "build"', ["golang:1"]),
        (
            'additional_contexts = { "tools:2" = "docker-image://other:3", alpine = "." }',
            ["busy:1", "golang:1", "other:3"],
        ),
        ('additional_contexts = { x = "docker-image://unused:1" }, target = "build"', ["golang:1"]),
        ('dockerfile_inline = "FROM inline:1"', ["inline:1"]),
    ],
)
def test_the_bases_are_those_that_the_target_needs(tmp_path: Path, build: str, expected: list[str]) -> None:
    assert bases(tmp_path, DOCKERFILE, build) == expected


@pytest.mark.parametrize(
    ("dockerfile", "more"),
    [
        (f"FROM busy@{A}\nCOPY --from=busy:1@{A} /x /x\n", ""),
        ("FROM scratch\n", ""),
        ("FROM mine:1\n", '[image.mine]\nfrom = "mine:1"\npull = "never"\n'),
        (
            "FROM shared:1\n",
            '[image.b]\nbuild = { dockerfile_inline = "FROM scratch", tags = ["shared:1"] }\n',
        ),
        ("FROM localhost/elsewhere/base\n", ""),
    ],
)
def test_what_no_registry_is_asked_for_by_a_tag_needs_no_lock(
    tmp_path: Path, dockerfile: str, more: str
) -> None:
    assert bases(tmp_path, dockerfile, more=more) == []
    files = {"stead.lock.toml": f'version = 2\n[digest]\n"x" = "{A}"\n'}
    assert load(tmp_path, files).problems == ()


def test_the_platform_of_the_image_decides_which_base_it_is(tmp_path: Path) -> None:
    text = "ARG TARGETARCH\nFROM base-${TARGETARCH}:1\n"
    assert bases(tmp_path, text, 'platforms = ["linux/riscv64"]') == ["base-riscv64:1"]


def test_a_base_has_the_place_where_it_is_written_first(tmp_path: Path) -> None:
    files = {
        "a.toml": '[image.a]\nbuild = "app"\n',
        "app/Dockerfile": "FROM x:1 AS y\nFROM x:1\nCOPY --from=y / /\n",
    }
    assert buildfiles.bases(good(load(tmp_path, files))).places == {
        "docker.io/library/x:1": "app/Dockerfile:1:1"
    }


def test_stages_that_cannot_be_planned_are_problems_of_the_lock(tmp_path: Path) -> None:
    desired = good(load(tmp_path, {"a.toml": '[image.a]\nbuild = "."\n', "Dockerfile": "FROM $NO\n"}))
    (problem,) = buildfiles.bases(desired).problems
    assert problem.startswith("Dockerfile:1:1: the image is empty")


def test_a_base_that_the_lock_lacks_is_a_problem_at_its_line(tmp_path: Path) -> None:
    files = {
        "a.toml": '[image.a]\nbuild = "app"\n',
        "app/Dockerfile": DOCKERFILE,
        "stead.lock.toml": LOCK,
    }
    assert load(tmp_path, files).problems == (
        "app/Dockerfile:2:1: image 'golang:1' is not in stead.lock.toml (run stead lock)",
        "app/Dockerfile:6:5: image 'tools:2' is not in stead.lock.toml (run stead lock)",
    )
    assert load(tmp_path, {}, kept=True).problems == (), "what was good once stays"
    locked = LOCK + f'"golang:1" = "{B}"\n"tools:2" = "{B}"\n'
    assert load(tmp_path, {"stead.lock.toml": locked}).problems == ()


def test_a_build_has_the_digests_of_the_lock_and_what_is_of_this_machine(tmp_path: Path) -> None:
    files = {
        "a.toml": '[image.a]\nbuild = "."\n[image.mine]\nfrom = "mine:1"\npull = "never"\n',
        "Dockerfile": "FROM busy:1\nCOPY --from=mine:1 / /\n",
        "stead.lock.toml": LOCK,
    }
    image = good(load(tmp_path, files)).images["localhost/default/a:latest"]
    assert render.build_request(image).locked == {
        "docker.io/library/busy:1": A,
        "docker.io/library/mine:1": "",
        "localhost/default/a:latest": "",
    }


def test_with_a_lock_file_of_before_bases_are_free(tmp_path: Path) -> None:
    """Even those that it names, because a container runs them: nothing changes by an upgrade."""
    files = {
        "a.toml": '[image.a]\nbuild = "."\n[container.c]\nimage = "busy:1"\n',
        "Dockerfile": DOCKERFILE,
    }
    free = good(load(tmp_path, files)).images["localhost/default/a:latest"]
    desired = good(load(tmp_path, {"stead.lock.toml": LOCK.replace("2", "1", 1)}))
    assert desired.images["localhost/default/a:latest"] == free
    assert desired.images["docker.io/library/busy:1"].digest == A
    assert render.build_request(free).locked is None
