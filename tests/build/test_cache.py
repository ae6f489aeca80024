"""Which change makes which step be done anew, and which makes none."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.build.engines import Engine, Stead
from tests.build.trees import Tree
from tests.build.workshop import Workshop

pytestmark = pytest.mark.root

DOCKERFILE = """\
FROM base
COPY token /
ARG version=1
ENV mode=fast
COPY one /one
RUN env | grep -w version > /version
COPY d /d
RUN cat /d/[a-c] > /all
LABEL about=this
"""
COPY_ONE, VERSION = "COPY one /one", "RUN env | grep -w version > /version"
COPY_D, ALL = "COPY d /d", "RUN cat /d/[a-c] > /all"
STEPS = ("COPY token /", COPY_ONE, VERSION, COPY_D, ALL)


@pytest.fixture
def shop(engine_of: Callable[[str], Engine], tmp_path: Path) -> Workshop:
    """A context that no other test has had, built once."""
    engine = engine_of("stead")
    assert isinstance(engine, Stead)
    made = Workshop(engine, tmp_path / "context")
    made.context.mkdir()
    files = {"token": uuid.uuid4().hex, "one": "1", "d/a": "a", "d/b": "b", ".dockerignore": "d/*.log\n"}
    made.write({"Dockerfile": DOCKERFILE, "other": "not copied", "d/x.log": "left out", **files})
    report = made.build("-t", "cache")
    assert report.steps == report.anew == STEPS
    return made


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def replace_without_trace(path: Path) -> None:
    """Another content of the same length, with the times of before."""
    before = path.stat()
    path.write_text("x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_directory(context: Path) -> None:
    (context / "d").rename(context / "e")
    (context / "d").mkdir()
    for name in ("a", "b"):
        (context / "e" / name).rename(context / "d" / name)


Change = Callable[[Path], object]
NOTHING: dict[str, Change] = {
    "nothing": lambda context: None,
    "times of what is copied": lambda context: os.utime(context / "d/a", (1, 1)),
    "owners in the context": lambda context: os.chown(context / "one", 7, 8),
    "what is not copied": lambda context: (context / "other").write_text("changed"),
    "what is left out": lambda context: (context / "d/x.log").write_text("changed"),
    "another name of the same bytes": lambda context: os.link(context / "one", context / "two"),
    "a directory in its place with the same content": replace_directory,
    "a comment": lambda context: rewrite(context / "Dockerfile", "ARG", "# what it is\nARG"),
    "how an instruction is laid out": lambda context: rewrite(
        context / "Dockerfile", "COPY one /one", "copy \\\n   one  /one"
    ),
    "a label": lambda context: rewrite(context / "Dockerfile", "about=this", "about=that"),
    "a label before the steps": lambda context: rewrite(context / "Dockerfile", "ARG", "LABEL a=1\nARG"),
    "an ignored file more": lambda context: (context / "d/y.log").write_text("new"),
    "the ignore file, to the same end": lambda context: (context / ".dockerignore").write_text("**/*.log\n"),
}
ANEW: dict[str, tuple[Change, tuple[str, ...]]] = {
    "the content of a file": (lambda context: (context / "one").write_text("2"), STEPS[1:]),
    "the content without a trace in times": (
        lambda context: replace_without_trace(context / "one"),
        STEPS[1:],
    ),
    "a file in a directory": (lambda context: (context / "d/a").write_text("A"), (COPY_D, ALL)),
    "a new file": (lambda context: (context / "d/c").write_text("c"), (COPY_D, ALL)),
    "an empty directory": (lambda context: (context / "d/e").mkdir(), (COPY_D, ALL)),
    "a file less": (lambda context: (context / "d/b").unlink(), (COPY_D, ALL)),
    "a name": (lambda context: (context / "d/b").rename(context / "d/c"), (COPY_D, ALL)),
    "a mode": (lambda context: (context / "d/b").chmod(0o600), (COPY_D, ALL)),
    "an environment that RUN has": (
        lambda context: rewrite(context / "Dockerfile", "mode=fast", "mode=slow"),
        STEPS[2:],
    ),
    "an argument's default": (
        lambda context: rewrite(context / "Dockerfile", "version=1", "version=2"),
        STEPS[2:],
    ),
    "what is left out": (lambda context: (context / ".dockerignore").write_text(""), (COPY_D, ALL)),
    "an owner that is asked for": (
        lambda context: rewrite(context / "Dockerfile", "COPY d", "COPY --chown=5 d"),
        ("COPY --chown=5 d /d", ALL),
    ),
}


@pytest.mark.parametrize("change", NOTHING)
def test_a_change_that_says_nothing_makes_no_step_anew(shop: Workshop, change: str) -> None:
    NOTHING[change](shop.context)
    assert shop.build("-t", "cache").anew == ()


@pytest.mark.parametrize("change", ANEW)
def test_a_change_makes_its_step_anew_and_what_stands_on_it(shop: Workshop, change: str) -> None:
    act, wanted = ANEW[change]
    before = shop.image("cache").tree
    act(shop.context)
    assert shop.build("-t", "cache").anew == wanted
    assert shop.build("-t", "cache").anew == ()
    fresh = shop.build("-t", "fresh", "--no-cache")
    assert fresh.anew == fresh.steps
    found, wanted_tree = shop.image("cache").tree, shop.image("fresh").tree
    assert lines(found) == lines(wanted_tree)
    if change.startswith(("the content", "a file", "a new", "a name", "a mode", "an empty")):
        assert lines(found) != lines(before)


def lines(tree: Tree) -> list[str]:
    return sorted(replace(entry, mtime=None).line(path) for path, entry in tree.items())


def test_what_was_before_is_found_again(shop: Workshop) -> None:
    first = shop.id("cache")
    shop.write({"one": "2"})
    shop.build("-t", "cache")
    assert shop.id("cache") != first
    shop.write({"one": "1"})
    assert shop.build("-t", "cache").anew == ()
    assert lines(shop.image("cache").tree) == lines(shop.image(first).tree)


def test_another_context_with_the_same_files_shares_the_steps(shop: Workshop, tmp_path: Path) -> None:
    other = Workshop(shop.engine, tmp_path / "other")
    other.context.mkdir()
    for name in ("token", "one", "d/a", "d/b", "Dockerfile"):
        other.write({name: (shop.context / name).read_text()})
    assert other.build("-t", "cache-other").anew == ()


def test_an_argument_counts_from_its_line_on(shop: Workshop) -> None:
    report = shop.build("-t", "cache", "--build-arg", "version=3")
    assert (report.anew[0], COPY_ONE in report.anew) == (VERSION, False)
    assert shop.image("cache").tree["version"].detail == "version=3\n"
    assert shop.build("-t", "cache").anew == ()
    assert shop.image("cache").tree["version"].detail == "version=1\n"


def test_proxies_and_secrets_do_not_count(shop: Workshop, tmp_path: Path) -> None:
    assert shop.build("-t", "cache", "--build-arg", "HTTP_PROXY=http://one.test").anew == ()
    rewrite(shop.context / "Dockerfile", "RUN env", "RUN --mount=type=secret,id=s env")
    secret = tmp_path / "secret"
    secret.write_text("one")
    shop.build("-t", "cache", "--secret", f"id=s,src={secret}")
    secret.write_text("two")
    assert shop.build("-t", "cache", "--secret", f"id=s,src={secret}").anew == ()


def test_a_base_of_the_same_name_and_other_content_is_a_new_start(shop: Workshop, tmp_path: Path) -> None:
    moving = Workshop(shop.engine, tmp_path / "moving")
    moving.context.mkdir()
    moving.write({"Dockerfile": "FROM base\nCOPY f /\n", "f": uuid.uuid4().hex})
    moving.build("-t", "moving-base")
    rewrite(shop.context / "Dockerfile", "FROM base", "FROM moving-base")
    assert len(shop.build("-t", "cache").anew) == len(STEPS)
    assert shop.build("-t", "cache").anew == ()
    moving.write({"f": uuid.uuid4().hex})
    moving.build("-t", "moving-base")
    assert len(shop.build("-t", "cache").anew) == len(STEPS)


def test_a_failed_step_leaves_what_was_done_before_it(shop: Workshop) -> None:
    rewrite(shop.context / "Dockerfile", "RUN cat /d/[a-c] > /all", "RUN touch /d/failed && exit 3")
    shop.write({"one": uuid.uuid4().hex})
    report = shop.build("-t", "cache", code=1)
    assert "exit code: 3" in report.output
    assert set(report.anew) == {COPY_ONE, VERSION, COPY_D, "RUN touch /d/failed && exit 3"}
    rewrite(shop.context / "Dockerfile", "RUN touch /d/failed && exit 3", "RUN ls /d > /all")
    assert shop.build("-t", "cache").anew == ("RUN ls /d > /all",)
    assert shop.image("cache").tree["all"].detail == "a\nb\n"


def test_a_file_of_a_stage_counts_by_its_content(shop: Workshop) -> None:
    token = uuid.uuid4().hex
    made = f"FROM base AS one\nRUN echo {token} > /made\n"
    shop.write({"Dockerfile": f"{made}FROM base\nCOPY --from=one /made /\nRUN cat /made > /out\n"})
    shop.build("-t", "cache")
    rewrite(shop.context / "Dockerfile", "RUN echo", "RUN true && echo")
    assert shop.build("-t", "cache").anew == (f"RUN true && echo {token} > /made",)


def test_a_bind_mount_counts_by_its_content(shop: Workshop) -> None:
    shop.write(
        {"Dockerfile": "FROM base\nCOPY token /\nRUN --mount=source=d,target=/mnt cat /mnt/a > /out\n"}
    )
    run = "RUN --mount=source=d,target=/mnt cat /mnt/a > /out"
    assert shop.build("-t", "cache").anew == (run,)
    shop.write({"one": "changed"})
    assert shop.build("-t", "cache").anew == ()
    shop.write({"d/a": "changed"})
    assert shop.build("-t", "cache").anew == (run,)
    assert shop.image("cache").tree["out"].detail == "changed"


def test_a_new_ignore_file_of_the_dockerfile_is_seen(shop: Workshop) -> None:
    shop.write({"Dockerfile.dockerignore": "d/b\n"})
    assert COPY_D in shop.build("-t", "cache").anew
    assert "d/b" not in shop.image("cache").tree
    assert "d/x.log" in shop.image("cache").tree


def test_a_link_counts_by_where_it_points(shop: Workshop) -> None:
    shop.write({"d/l": {"link": "a"}})
    assert COPY_D in shop.build("-t", "cache").anew
    assert shop.build("-t", "cache").anew == ()
    shop.write({"d/l": {"link": "b"}})
    assert COPY_D in shop.build("-t", "cache").anew
    assert shop.image("cache").tree["d/l"].detail == "b"


def test_a_name_that_was_given_to_another_image_comes_back(shop: Workshop) -> None:
    first = shop.id("cache")
    assert shop.engine.stead("image", "tag", "base", "cache").code == 0
    assert shop.id("cache") != first
    shop.build("-t", "cache")
    assert shop.id("cache") == first


def test_an_image_that_was_removed_is_built_again(shop: Workshop) -> None:
    assert shop.engine.stead("image", "rm", "cache").code == 0
    shop.build("-t", "cache")
    assert shop.image("cache").tree["all"].detail == "ab"


def test_the_file_of_the_id_is_written_each_time(shop: Workshop, tmp_path: Path) -> None:
    for number in range(2):
        target = tmp_path / f"id-{number}"
        shop.build("-t", "cache", "--iidfile", str(target))
        assert target.read_text() == shop.id("cache")


def test_a_stage_is_done_anew_where_it_is_named(shop: Workshop) -> None:
    first = "FROM base AS one\nCOPY token /\nRUN echo 1 > /made\n"
    shop.write({"Dockerfile": f"{first}FROM base\nCOPY token /x\nCOPY --from=one made /\n"})
    shop.build("-t", "cache")
    assert shop.build("-t", "cache").anew == ()
    report = shop.build("-t", "cache", "--no-cache-filter", "one")
    assert set(report.anew) == {"COPY token /", "RUN echo 1 > /made"}
