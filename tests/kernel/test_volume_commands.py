"""`stead volume create, ls, inspect, rm, prune`, and volumes in `stead system df`. As root."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.main import main
from runtime.wishes import VolumeRequest
from specs.values import MountPoint
from tests.kernel.engine_box import Engine, engine

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("commands")) as made:
        yield made


class Command:
    """The command line on a state directory: what it printed, what it complained of, its exit code."""

    def __init__(self, machine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
        self.machine, self._capsys = machine, capsys
        self.errors, self.code = "", 0

    def __call__(self, *words: str, code: int = 0) -> str:
        roots = ("--root", str(self.machine.paths.root), "--run", str(self.machine.paths.run))
        try:
            self.code = main([*roots, *words])
        except SystemExit as end:
            self.code = int(end.code or 0)
        out, self.errors = self._capsys.readouterr()
        assert self.code == code, out + self.errors
        return out

    def names(self, *filters: str) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return self("volume", "ls", "-q", *words).split()


@pytest.fixture
def stead(shared: Engine, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    yield Command(shared, capsys)
    for name in shared.runtime.observe().containers:
        shared.runtime.remove_container(name)
    for volume in shared.runtime.volumes.list():
        shared.runtime.volumes.remove(volume.name, even_kept=True)


def declared(machine: Engine, name: str, **more: object) -> None:
    machine.runtime.create_volume(VolumeRequest(name, "shop", "f", **more))  # type: ignore[arg-type]


def test_volumes_made_by_hand_are_unmanaged_and_listed_beside_declared_ones(stead: Command) -> None:
    assert stead("volume", "create", "--label", "team=web", "--label", "old", "pictures") == "pictures\n"
    assert stead("volume", "create", "shop/more") == "shop/more\n"
    declared(stead.machine, "shop/data")
    assert stead("volume", "ls").splitlines() == [
        "DRIVER    VOLUME NAME   SOURCE",
        "local     pictures      unmanaged",
        "local     shop/data     shop",
        "local     shop/more     unmanaged",
    ]
    found = stead.machine.runtime.observe().volumes["pictures"]
    assert (found.source, found.labels) == ("", {"team": "web", "old": ""})
    assert stead("volume", "create", "pictures") == "pictures\n", "it is there"
    stead("volume", "create", "-o", "type=tmpfs", "pictures", code=1)
    assert "it is there with other options" in stead.errors
    stead("volume", "create", "../x", code=1)
    assert "it is not a volume name" in stead.errors
    stead("volume", "create", "-o", "what=1", "bad", code=1)
    assert "unknown option 'what'" in stead.errors
    stead("volume", "create", "-o", "what", "bad", code=2)
    assert stead.names() == ["pictures", "shop/data", "shop/more"]


def test_lists_are_filtered_and_formatted(stead: Command) -> None:
    for name, labels in (("red", ("a=1", "b=1")), ("green", ("a=2",)), ("blue", ())):
        stead("volume", "create", *(word for text in labels for word in ("--label", text)), name)
    user = stead.machine.create("true", mounts=(MountPoint("volume", "red", "/d"),))
    assert stead.names("label=a") == ["green", "red"]
    assert stead.names("label=a=1", "label=b") == ["red"]
    assert stead.names("label!=a") == ["blue"]
    assert stead.names("name=re") == ["green", "red"]
    assert stead.names("dangling=true") == ["blue", "green"] and stead.names("dangling=0") == ["red"]
    assert stead.names("driver=local", "name=blue") == ["blue"] and stead.names("driver=nfs") == []
    text = stead("volume", "ls", "--format", "{{.Name}}: {{.Labels}} {{.Links}} {{.Users}}")
    assert text.splitlines() == ["blue:  0 ", "green: a=2 0 ", f"red: a=1,b=1 1 {user}"]
    rows = [json.loads(line) for line in stead("volume", "ls", "--json").splitlines()]
    assert [row["Name"] for row in rows] == ["blue", "green", "red"] and rows[0]["Size"] == "0B"
    stead("volume", "ls", "--filter", "color=red", code=2)
    assert "the filters are dangling, driver, label, name" in stead.errors
    stead("volume", "ls", "--filter", "dangling=maybe", code=2)
    stead("volume", "ls", "--format", "{{.Nonsense", code=2)


def test_inspect_shows_all_and_says_what_is_not_there(stead: Command) -> None:
    stead("volume", "create", "-o", "type=tmpfs", "-o", "o=size=1m", "fast")
    declared(stead.machine, "shop/data", keep=True, labels={"a": "b"})
    name = stead.machine.start("sleep 1000", mounts=(MountPoint("volume", "fast", "/d"),))
    fast, data = json.loads(stead("volume", "inspect", "fast", "data"))
    assert fast["Options"] == {"type": "tmpfs", "o": "size=1m"} and fast["Mounted"] is True
    assert (fast["Users"], fast["Source"]) == ([name], "unmanaged")
    assert (fast["Driver"], fast["Scope"]) == ("local", "local")
    assert (data["Name"], data["Keep"], data["Labels"], data["Users"]) == ("shop/data", True, {"a": "b"}, [])
    assert data["Mountpoint"] == str(stead.machine.paths.volumes / "shop/data/_data")
    assert data["CreatedAt"].startswith("20")
    assert stead("volume", "inspect", "-f", "{{.Name}}", "fast", "nope", code=1) == "fast\n"
    assert "there is no volume nope" in stead.errors


def test_what_is_used_or_to_be_kept_is_not_removed(stead: Command) -> None:
    for name in ("one", "two"):
        stead("volume", "create", name)
    declared(stead.machine, "shop/kept", keep=True)
    user = stead.machine.create("true", mounts=(MountPoint("volume", "one", "/d"),))
    assert stead("volume", "rm", "one", "gone", "two", code=1) == "two\n"
    assert f"used by {user}" in stead.errors and "there is no volume of this name" in stead.errors
    stead("volume", "rm", "kept", code=1)
    assert "it is marked to be kept" in stead.errors
    assert stead("volume", "rm", "--force", "gone", "kept") == "shop/kept\n"
    assert stead.names() == ["one"]
    assert not (stead.machine.paths.volumes / "shop").exists()


def test_a_volume_and_a_project_of_one_name_do_not_touch_each_other(stead: Command) -> None:
    stead("volume", "create", "shop")
    declared(stead.machine, "shop/data")
    volume = stead.machine.runtime.volumes.get("shop/data")
    assert volume is not None
    (volume.path / "precious").touch()
    stead("volume", "rm", "shop")
    assert (volume.path / "precious").exists() and stead.names() == ["shop/data"]


def test_prune_takes_anonymous_volumes_and_on_demand_those_made_by_hand(
    stead: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = stead.machine
    anonymous = stead("volume", "create").strip()
    assert len(anonymous) == 64
    stead("volume", "create", "--label", "stay", "labelled")
    stead("volume", "create", "plain")
    declared(machine, "shop/data")
    used = machine.create("true", mounts=(MountPoint("volume", "", "/d"),))
    left = machine.create("true", mounts=(MountPoint("volume", "", "/d"),))
    (dangling,) = (v.name for v in machine.runtime.observe().volumes.values() if v.container == left)
    machine.runtime.remove_container(left, volumes=False)
    path = machine.runtime.volumes.need(dangling, "look at").path
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"x" * 2000)

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert "WARNING! This will remove anonymous volumes not used" in stead("volume", "prune")
    assert "Total reclaimed space: 0B" in stead("image", "prune")
    assert "Are you sure" in stead("network", "prune")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    text = stead("volume", "prune")
    assert sorted(text.partition("Deleted Volumes:\n")[2].split()[:2]) == sorted([anonymous, dangling])
    assert "Total reclaimed space: 2kB" in text
    machine.runtime.remove_container(used, replaced=True)  # and its successor is not there yet
    assert stead("volume", "prune", "-f") == "Total reclaimed space: 0B\n"
    text = stead("volume", "prune", "--all", "--force", "--filter", "label!=stay")
    assert text.splitlines()[:2] == ["Deleted Volumes:", "plain"]
    assert "labelled" in stead.names() and "shop/data" in stead.names() and len(stead.names()) == 3
    assert "labelled" in stead("volume", "prune", "-f", "--filter", "all=true")


def test_df_counts_volumes_with_their_users_and_sizes(stead: Command) -> None:
    stead("volume", "create", "data")
    volume = stead.machine.runtime.volumes.get("data")
    assert volume is not None
    (volume.path / "file").write_bytes(b"x" * 5000)
    stead.machine.create("true", mounts=(MountPoint("volume", "", "/d"), MountPoint("volume", "", "/e")))
    (line,) = (text for text in stead("system", "df").splitlines() if text.startswith("Local Volumes"))
    assert line.split() == ["Local", "Volumes", "3", "2", "5kB", "5kB", "(100%)"]
    details = json.loads(stead("system", "df", "-v", "--format", "json"))
    assert {"Name": "data", "Links": "0", "Size": "5kB"} in details["Volumes"]
    assert sorted(row["Links"] for row in details["Volumes"]) == ["0", "1", "1"]
    assert details["Containers"][0]["LocalVolumes"] == "2"


def test_there_is_nothing_to_list_where_there_is_no_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = ["--root", str(tmp_path / "root"), "--run", str(tmp_path / "run")]
    assert main([*roots, "volume", "ls", "-q"]) == 0
    assert capsys.readouterr().out == "" and not (tmp_path / "root").exists()
