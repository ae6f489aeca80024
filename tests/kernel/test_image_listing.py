"""What `image ls`, `history` and `inspect` show; beside docker where it is installed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.images.history import history
from runtime.paths import Paths
from tests.kernel.docker_box import Docker, docker, needs_docker
from tests.kernel.images_box import file, layer
from tests.kernel.node_box import Node, docker_archive

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

BASE, TOP = layer(file("base", "b" * 5000)), layer(file("top", "t" * 300))
OLD = {
    "created": "2020-01-02T03:04:05Z",
    "author": "somebody",
    "config": {
        "Cmd": ["/old"],
        "Env": ["A=b c", "PATH=/bin"],
        "Labels": {"team": "web", "a.b": "", "x": "1"},
    },
    "history": [{"created": "2020-01-02T03:04:05Z", "created_by": "/bin/sh -c #(nop) ADD file:1 in / "}],
}
NEW = {
    "created": "2021-06-07T08:09:10.123456789Z",
    "config": {
        "Entrypoint": ["/new", "--all"],
        "User": "web",
        "WorkingDir": "/srv",
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"team": "db"},
    },
    "history": [
        {"created": "2020-01-02T03:04:05Z", "created_by": "ADD base / # buildkit"},
        {"created": "2021-06-07T08:09:09Z", "created_by": 'ENV LONG="' + "x" * 60 + '"', "empty_layer": True},
        {
            "created": "2021-06-07T08:09:10Z",
            "created_by": "RUN make\ttop",
            "comment": "buildkit.dockerfile.v0",
        },
        {"created": "2021-06-07T08:09:10Z", "created_by": "USER web", "empty_layer": True},
    ],
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """With old:1, old:2 and team/old:1, which are one image, and registry.example:5000/new:1."""
    base = tmp_path_factory.mktemp("node")
    made = Node(Paths(base / "root", base / "run"))
    made.load(docker_archive(base / "old.tar", "old:1", [BASE], OLD), "old:1")
    made.load(docker_archive(base / "new.tar", "x/new:1", [BASE, TOP], NEW), "registry.example:5000/new:1")
    for name in ("old:2", "team/old:1"):
        made.tag("old:1", name)
    return made


@pytest.fixture(scope="module")
def daemon(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with docker(tmp_path_factory.mktemp("docker") / "d") as made:
        for name in ("old", "new"):
            made.well("load", "-q", "-i", str(node.paths.root.parent / f"{name}.tar"))
        for source, name in (
            ("old:1", "old:2"),
            ("old:1", "team/old:1"),
            ("x/new:1", "registry.example:5000/new:1"),
        ):
            made.well("tag", source, name)
        made.well("image", "rm", "x/new:1")
        yield made


@needs_docker
@pytest.mark.parametrize(
    "words",
    [
        "ls",
        "ls -q",
        "ls -q --no-trunc",
        "ls --digests",
        "ls old",
        "ls old:2",
        "ls team/old",
        "ls */old",
        "ls nosuch",
        "ls registry.example:5000/new",
        "ls -f label=team",
        "ls -f label=team=web",
        "ls -f label=a.b=",
        "ls -f label=team -f label=x=1",
        "ls -f label=nosuch",
        "ls -f before=registry.example:5000/new:1",
        "ls -f since=old:1",
        "ls -f since=registry.example:5000/new:1",
        "ls -f reference=o?d:[12]",
        "ls -f reference=*:1",
        "ls -f reference=*/*:1 -f reference=old:2",
        "ls -f dangling=true",
        "ls -f dangling=false -q",
        "ls --format {{.Repository}}:{{.Tag}}|{{.ID}}|{{.Size}}|{{.Digest}}|{{.CreatedSince}}",
        r"ls --format table\ {{.ID}}\t{{.Repository}}\t{{upper\ .Tag}}",
        "ls --format {{.CreatedAt}}",
        "history old:1",
        "history --no-trunc registry.example:5000/new:1",
        "history registry.example:5000/new:1",
        "history -q registry.example:5000/new:1",
        "history -H=false registry.example:5000/new:1",
        "history --human=false old:1",
        "history -H old:1",
        "history --format {{.CreatedBy}}={{.Size}}={{.Comment}} registry.example:5000/new:1",
        "inspect -f {{.Id}}{{.RepoTags}}{{.Created}}{{.Author}}{{.Os}}{{.Architecture}}{{.Size}} old:1",
        "inspect -f {{json\\ .Config.Env}}{{json\\ .RootFS}}{{json\\ .Config.Labels}} old:1",
        "inspect -f {{range\\ $k,\\ $v\\ :=\\ .Config.Labels}}{{$k}}={{$v}};{{end}} old:1",
        'inspect -f {{index\\ .Config.Labels\\ "a.b"}}|{{index\\ .Config.Labels\\ "none"}}| old:1',
        "inspect -f {{join\\ .Config.Env\\ ','}}{{len\\ .RootFS.Layers}} old:1".replace("'", '"'),
        "inspect -f {{if\\ .Config.Entrypoint}}{{index\\ .Config.Entrypoint\\ 0}}{{else}}none{{end}} old:1",
        "inspect -f {{with\\ .Config}}{{.User}}:{{.WorkingDir}}:{{.Cmd}}{{end}} registry.example:5000/new:1",
        "inspect -f {{range\\ .RepoTags}}{{println\\ .}}{{end}} old:1",
        "inspect -f {{.Config.ExposedPorts}}{{.Config.Env}} registry.example:5000/new:1",
        "inspect -f {{.Id}} old:1 registry.example:5000/new:1",
        "inspect -f {{.Nope}} old:1",
        "inspect -f {{.Id old:1",
        "inspect nosuch",
    ],
)
def test_images_are_shown_as_docker_shows_them(words: str, node: Node, daemon: Docker) -> None:
    split = [word.replace("\0", " ") for word in words.replace("\\ ", "\0").split()]
    ours, theirs = node.run("image", *split), daemon.run("image", *split)
    assert bool(ours.code) == bool(theirs.code), ours.errors + theirs.errors
    wanted = [line.rstrip() for line in theirs.lines if line.strip("[] ")]
    found = [line.rstrip() for line in ours.lines if line.strip("[] ")]
    if words.startswith("ls"):  # docker has no order between the repositories of one image
        found, wanted = sorted(found), sorted(wanted)
    assert found == wanted


# ---------------------------------------------------------------- ours alone


def test_the_newest_image_is_first_and_its_names_are_sorted(node: Node) -> None:
    lines = node.run("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").lines
    assert lines == ["registry.example:5000/new:1", "old:1", "old:2", "team/old:1"]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["ls", "-f", "nosuch=1"], "the filters are before, dangling, label, reference, since, until"),
        (["ls", "-f", "dangling"], "write KEY=VALUE"),
        (["ls", "-f", "dangling=perhaps"], "write true or false"),
        (["ls", "-f", "dangling!=true"], "the filters are"),
        (["ls", "-f", "before=nosuch"], "cannot find image nosuch: it is not there"),
        (["ls", "-f", "until=yesterday"], "write how long ago (24h), a date (2024-05-31)"),
        (["ls", "--format", "{{.Nope}}"], "1:3: there is no field .Nope; there are .Repository, .Tag"),
        (["inspect", "-f", "{{.Config.Nope}}", "old:1"], "1:10: there is no field .Nope"),
        (["inspect", "-f", "{{", "old:1"], "1:1: an action is not closed"),
    ],
)
def test_a_mistake_of_the_command_line_is_explained(node: Node, words: list[str], wrong: str) -> None:
    said = node.run("image", *words)
    assert said.code and said.out == "" and said.errors.startswith("stead: cannot ")
    assert wrong in said.errors


def test_a_time_filters_by_when_images_were_made(node: Node) -> None:
    for until, count in (("2020-06-01", 3), ("2022-01-01T00:00:00Z", 4), ("10m", 4), ("1577836800", 0)):
        assert len(node.run("image", "ls", "-q", "-f", f"until={until}").lines) == count, until


def test_labels_that_are_not_wanted_are_left_out(node: Node) -> None:
    assert len(node.run("image", "ls", "-q", "-f", "label!=team=web").lines) == 1
    assert node.run("image", "ls", "-q", "-f", "label!=team").lines == []


def test_inspect_has_dockers_keys_and_says_where_the_layers_are(node: Node) -> None:
    (found,) = json.loads(node.run("image", "inspect", "registry.example:5000/new:1").out)
    assert found["Config"]["Entrypoint"] == ["/new", "--all"] and found["Config"]["Env"] is None
    assert found["RootFS"]["Type"] == "layers" and len(found["RootFS"]["Layers"]) == 2
    data = found["GraphDriver"]["Data"]
    assert (Path(data["UpperDir"]) / "top").exists() and (Path(data["LowerDir"]) / "base").exists()
    assert "" != found["Metadata"]["Added"] <= found["Metadata"]["LastUsed"]
    assert found["Comment"] == "" and found["Parent"] == ""


def test_inspect_of_any_kind_shows_the_same_of_an_image(node: Node) -> None:
    (found,) = json.loads(node.run("image", "inspect", "old:1").out)
    for name in ("old:1", found["Id"], found["Id"][7:19]):
        assert json.loads(node.run("inspect", "image", name).out) == found
    assert node.run("inspect", "image", "nosuch").code == 1


def test_one_missing_image_does_not_hide_the_others(node: Node) -> None:
    said = node.run("image", "inspect", "nosuch", "old:1", "--format", "{{.Os}}")
    assert (said.code, said.lines) == (1, ["linux"])
    assert said.errors == "stead: cannot inspect image nosuch: it is not in the store\n"


def test_layers_that_the_history_does_not_speak_of_are_the_oldest() -> None:
    steps = history("sha256:1", {"history": [{"created_by": "top"}, {"empty_layer": True}]}, [5, 7])
    assert [(step["Id"], step["CreatedBy"], step["Size"]) for step in steps] == [
        ("sha256:1", "", 0),
        ("<missing>", "top", 7),
        ("<missing>", "", 5),
    ]
    assert [step["Size"] for step in history("sha256:1", {}, [5])] == [5]
    more = {"history": [{"created_by": "a"}, {"created_by": "b"}, "nonsense"]}
    assert [step["Size"] for step in history("sha256:1", more, [5])] == [0, 5]


def test_a_machine_without_a_store_lists_nothing_and_makes_nothing(tmp_path: Path) -> None:
    bare = Node(Paths(tmp_path / "root", tmp_path / "run"))
    said = bare.run("image", "ls")
    assert (said.code, len(said.lines)) == (0, 1) and list(tmp_path.iterdir()) == []
