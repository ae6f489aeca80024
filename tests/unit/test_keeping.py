"""What is kept on disk and what is told to systemd."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.desired import Shelf, Surroundings, load_directory, resolve
from agent.lock import hold, holder
from agent.notify import notify, watchdog_interval
from agent.sources.revision import Revision, digest, relevant
from runtime.faults import Fault
from runtime.paths import Paths

GOOD = Revision(
    "r1", "1 file", {"a.toml": b'[container.x]\nimage = "busybox"\n', "b.env": b"\xff\x00"}, "/src"
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(tmp_path / "root", tmp_path / "run")
    made.make()
    return made


def test_a_good_revision_is_kept_whole(paths: Paths) -> None:
    shelf = Shelf(paths, "shop")
    assert shelf.get() is None
    shelf.put(GOOD)
    assert Shelf(paths, "shop").get() == GOOD
    shelf.drop()
    assert shelf.get() is None


def test_the_revision_before_the_last_good_one_is_kept_as_well(paths: Paths) -> None:
    shelf = Shelf(paths, "shop")
    shelf.put(GOOD)
    assert shelf.previous() is None
    newer = Revision("r2", "", {}, "/src", "/trees/r2")
    shelf.put(newer)
    shelf.put(newer)  # the same again is no new one
    assert (Shelf(paths, "shop").get(), Shelf(paths, "shop").previous()) == (newer, GOOD)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 99}', b'{"version": 1, "files": 3}'])
def test_a_kept_revision_that_cannot_be_read_is_none(paths: Paths, content: bytes) -> None:
    shelf = Shelf(paths, "shop")
    shelf.put(GOOD)
    (shelf.directory / "good.json").write_bytes(content)
    assert shelf.get() is None


def test_a_revision_with_a_mistake_is_not_taken_and_every_mistake_is_told() -> None:
    files = {"a.toml": b"[container.x]\nimagee = 'a'\n", "b.toml": b"[container.y]\nports = 3\n"}
    found = resolve("shop", Revision("r", "", files, "/src"), Surroundings())
    assert found.desired is None
    assert {problem.split(":")[0] for problem in found.problems} == {"a.toml", "b.toml"}


def test_the_same_files_resolve_to_the_same_thing_twice() -> None:
    first = resolve("shop", GOOD, Surroundings()).desired
    second = resolve("shop", GOOD, Surroundings()).desired
    assert first is not None and first == second
    assert list(first.containers) == ["default/x"]


def test_a_directory_is_loaded_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "My Shop").mkdir()
    (tmp_path / "My Shop" / "x.toml").write_text('[container.x]\nimage = "busybox"\n')
    found = load_directory(tmp_path / "My Shop")
    assert found.desired is not None and found.desired.source == "my-shop"


def test_a_revision_is_named_by_its_content() -> None:
    assert digest({"a": b"1", "b": b"2"}) == digest({"b": b"2", "a": b"1"})
    assert digest({"a": b"12"}) != digest({"a1": b"2"})


@pytest.mark.parametrize(
    ("path", "matters"),
    [
        ("a.toml", True),
        ("sub/compose.yaml", True),
        (".env", True),
        ("sub/.steadignore", True),
        ("db.env", True),
        (".git/config.toml", False),
        (".hidden.toml", False),
        ("a.toml~", False),
        (".a.toml.swp", False),
        ("4913", False),
        ("data/table.ibd", False),
    ],
)
def test_only_files_that_can_matter_are_looked_at(path: str, matters: bool) -> None:
    assert relevant(path) is matters


def test_the_lock_names_its_holder(paths: Paths) -> None:
    with hold(paths, "apply"):
        assert holder(paths) == (os.getpid(), "apply")
        with pytest.raises(Fault, match=f"the apply with pid {os.getpid()} holds it"), hold(paths):
            pass
    with hold(paths, "agent"):
        assert holder(paths) == (os.getpid(), "agent")


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1", "STATUS=all is well")
        assert sock.recv(100) == b"READY=1\nSTATUS=all is well"
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_interval() == 15.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval() == 0.0


def test_what_is_built_is_looked_at_before_it_is_taken(tmp_path: Path) -> None:
    spec = tmp_path / "a.toml"
    spec.write_text(
        'project = "p"\n[image.app]\nbuild = { context = "app", additional_contexts = { x = "x" } }\n'
    )

    def said() -> tuple[str, ...]:
        return load_directory(tmp_path).problems

    place = "a.toml:2:1: image localhost/p/app:latest: "
    assert said() == (f"{place}no directory 'app' in the source", f"{place}no directory 'x' in the source")
    (tmp_path / "app").mkdir()
    (tmp_path / "x").mkdir()
    assert said() == (f"{place}cannot read app/Dockerfile: no such file or directory",)
    (tmp_path / "app" / "Dockerfile").write_text("FROM scratch\nCOPI . /\nRUM x\n")
    first, second = said()
    assert first.startswith("app/Dockerfile:2:1: ") and "COPY" in first
    assert second.startswith("app/Dockerfile:3:1: ")
    (tmp_path / "app" / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    assert said() == ()
    spec.write_text('[image.app]\nbuild = { dockerfile_inline = "FRM x" }\n')
    assert said()[0].startswith("a.toml app.dockerfile_inline:1:1: ")


def test_a_kept_revision_is_good_whatever_became_of_what_it_builds(tmp_path: Path) -> None:
    revision = Revision("r", "", {"a.toml": b'[image.app]\nbuild = "app"\n'}, str(tmp_path))
    assert resolve("s", revision, Surroundings()).desired is None
    assert resolve("s", revision, Surroundings(), kept=True).desired is not None


def test_what_is_built_may_not_come_through_a_link_out_of_the_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "app").symlink_to("/etc")
    (source / "a.toml").write_text(
        '[image.app]\nbuild = "app"\n[image.b]\nbuild = { secrets = ["s"] }\n[secret.s]\nfile = "key"\n'
    )
    (source / "Dockerfile").write_text("FROM scratch\n")
    (source / "key").symlink_to("/etc/shadow")
    assert load_directory(source).problems == (
        "a.toml:1:1: image localhost/default/app:latest: app is a link that leaves the source",
        "a.toml:3:1: image localhost/default/b:latest: key is a link that leaves the source",
    )
