"""What people see and do to a container, beside docker's own command line. Needs root and docker."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from tests.kernel.docker_box import Docker, Said, docker, needs_docker
from tests.kernel.engine_box import Engine, engine, rootfs
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    needs_docker,
]

SCRIPT = "mkdir -p /d/sub; echo f > /d/f; ln -s /d /ld; ln -s f /d/lf; ln -s nowhere /dang; exec sleep 1000"
#: Of another system, or of no effect any more.
WINDOWS_AND_OLD = {
    *("CpuCount", "CpuPercent", "IOMaximumIOps", "IOMaximumBandwidth", "KernelMemory", "KernelMemoryTCP"),
    *("Bridge", "HairpinMode", "LinkLocalIPv6Address", "LinkLocalIPv6PrefixLen"),
    *("SecondaryIPAddresses", "SecondaryIPv6Addresses"),
}
#: Keys of docker's document that are about what Stead has no such thing of.
ELSEWHERE = {"HostRootPath", "ImageManifestDescriptor", "Storage"}


@dataclass
class Both:
    """One container each, called one, of the same image and program; and an ended one, two."""

    box: Engine
    docker: Docker

    def run(self, *words: str, here: Path | None = None) -> tuple[Said, Said]:
        """What Stead and what docker say."""
        roots = ("--root", str(self.box.paths.root), "--run", str(self.box.paths.run))
        out, errors = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(here or "/"),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            code = main([*roots, *words])
        environment = {**os.environ, "DOCKER_HOST": self.docker.host}
        theirs = subprocess.run(
            ["docker", *words], capture_output=True, text=True, timeout=60, cwd=here, env=environment
        )
        ours = Said(code, out.getvalue(), errors.getvalue())
        return ours, Said(theirs.returncode, theirs.stdout, theirs.stderr)

    def codes(self, *words: str) -> int:
        """The exit code of both."""
        ours, theirs = self.run(*words)
        assert ours.code == theirs.code, (words, ours, theirs)
        return ours.code


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    base = tmp_path_factory.mktemp("hands")
    with engine(base / "stead") as box, docker(base / "docker") as daemon:
        tar = subprocess.run(
            ["tar", "-C", str(rootfs(base / "image")), "-c", "."], capture_output=True, check=True
        )
        environment = {**os.environ, "DOCKER_HOST": daemon.host}
        command = ["docker", "import", "-", "tests/busybox:1"]
        subprocess.run(command, input=tar.stdout, env=environment, check=True, capture_output=True)
        words = ("--network", "none", "-l", "tier=front", "tests/busybox:1", "sh", "-c")
        daemon.well("run", "-d", "--name", "one", *words, SCRIPT)
        daemon.run("run", "--name", "two", *words, "exit 3")
        box.start(SCRIPT, name="one", source="", labels={"tier": "front"})
        box.start("exit 3", name="two", source="", labels={"tier": "front"})
        until(lambda: (box.home("two") / "exit.json").exists())
        until(lambda: (box.paths.rootfs(box.id("one")) / "dang").is_symlink())
        until(lambda: daemon.run("exec", "one", "readlink", "/dang").code == 0)
        yield Both(box, daemon)
        daemon.run("rm", "-f", "one", "two")


@pytest.mark.parametrize(
    "words",
    [("ps", "-a"), ("stats", "--no-stream"), ("top", "one"), ("top", "one", "-o", "pid,args")],
    ids=lambda words: words[0],
)
def test_tables_have_dockers_columns(both: Both, words: tuple[str, ...]) -> None:
    ours, theirs = both.run(*words)
    assert re.split(r"\s{2,}", ours.lines[0].strip()) == re.split(r"\s{2,}", theirs.lines[0].strip())


def test_lists_have_dockers_words(both: Both) -> None:
    for words in (
        (
            "ps",
            "-a",
            "--format",
            "{{.Names}} {{.State}} {{.Command}} {{.Labels}} {{.LocalVolumes}} {{.Networks}}",
        ),
        ("ps", "--format", "{{.Names}}"),
        ("ps", "-a", "--filter", "status=exited", "--format", "{{.Names}}"),
        ("ps", "-a", "--filter", "exited=3", "--format", "{{.Names}}"),
        ("ps", "-a", "--filter", "label=tier=front", "--filter", "name=^/?one$", "--format", "{{.Names}}"),
        ("ps", "-a", "--filter", "since=one", "--format", "{{.Names}}"),
        ("ps", "-l", "--format", "{{.Names}}"),
        ("ps", "-a", "--no-trunc", "--filter", "name=two", "--format", "{{.Command}}"),
        ("port", "one"),
    ):
        ours, theirs = both.run(*words)
        assert (ours.code, ours.out) == (theirs.code, theirs.out), words
    ours, theirs = both.run("ps", "-a", "--format", "json")
    assert set(json.loads(theirs.lines[0])) - ELSEWHERE - {"Platform"} <= set(json.loads(ours.lines[0]))
    form = ("ps", "-a", "--format", "{{.Status}}")
    for ours_line, theirs_line in zip(*(said.lines for said in both.run(*form)), strict=True):
        plain = [
            re.sub(r"(\d+|a|an|About an?|Less than a) (second|minute)s?", "TIME", s)
            for s in (ours_line, theirs_line)
        ]
        assert plain[0] == plain[1]


def keys(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Of docker's document, those that ours does not have."""
    missing = []
    for key, value in theirs.items():
        if key not in ours:
            missing.append(f"{path}{key}")
        elif (
            isinstance(value, dict)
            and path.count(".") < 1
            and key not in ("GraphDriver", "Networks", "Labels")
        ):
            missing += keys(ours[key] or {}, value, f"{path}{key}.")
    return missing


def test_inspect_has_dockers_keys_and_values(both: Both) -> None:
    ours, theirs = (json.loads(said.out)[0] for said in both.run("container", "inspect", "one"))
    missing = [key for key in keys(ours, theirs) if key not in ELSEWHERE]
    assert [key for key in missing if key.rpartition(".")[2] not in WINDOWS_AND_OLD] == []
    for path in (
        "State.Status",
        "State.Running",
        "State.ExitCode",
        "Path",
        "Args",
        "Config.Labels",
        "Config.Cmd",
    ):
        values = []
        for document in (ours, theirs):
            for part in path.split("."):
                document = document[part]
            values.append(document)
        assert values[0] == values[1], path
    form = (
        "inspect",
        "-f",
        "{{.State.Status}} {{.State.ExitCode}} {{.HostConfig.NetworkMode}} {{.Name}}",
        "two",
    )
    said = both.run(*form)
    assert said[0].out == said[1].out == "exited 3 none /two\n"


def test_exit_codes_are_dockers(both: Both) -> None:
    assert both.codes("pause", "one") == 0
    assert both.codes("pause", "one") == 1
    assert both.codes("exec", "one", "true") == 1
    assert both.run("ps", "--format", "{{.State}}")[0].out == "paused\n"
    assert both.codes("unpause", "one") == 0
    assert both.codes("unpause", "one") == 1
    assert both.codes("pause", "two") == both.codes("top", "two") == 1
    assert both.codes("port", "one", "80") == both.codes("port", "nobody") == 1
    assert (
        both.codes("logs", "nobody") == both.codes("inspect", "nobody") == both.codes("stats", "nobody") == 1
    )
    assert both.codes("update", "-m", "64m", "--memory-swap", "128m", "one") == 0
    assert both.codes("update", "-m", "256m", "--memory-swap", "128m", "one") == 1
    assert (
        both.codes("cp", "nobody:/x", ".")
        == both.codes("cp", "one:/x", "two:/x")
        == both.codes("cp", "a", "b")
        == 1
    )


def test_events_have_dockers_words(both: Both) -> None:
    assert both.codes("pause", "one") == both.codes("unpause", "one") == 0
    words = ("events", "--since", "10m", "--until", "0s", "--filter", "container=one", "--format", "json")
    ours, theirs = ([json.loads(line) for line in said.lines] for said in both.run(*words))
    chosen = [{item["Action"]: item for item in found} for found in (ours, theirs)]
    for action in ("create", "start", "pause", "unpause"):
        mine, yours = (found[action] for found in chosen)
        assert set(mine) == set(yours)
        assert {"image", "name", "tier"} <= set(mine["Actor"]["Attributes"]) & set(
            yours["Actor"]["Attributes"]
        )


@pytest.mark.parametrize(
    "words",
    [
        "file one:/tmp/new", "file one:/tmp/nodir/", "file one:/no/parent", "dir one:/tmp/d1",
        "dir one:/tmp/new", "ldir one:/tmp/link", "-L ldir one:/tmp/followed", "file one:/dang",
        "file one:relative", "dir/. one:/d", "one:/d o1", "one:/d/. o2", "one:/d dir", "one:/ld o3",
        "-L one:/ld o4", "one:/d/f/ o", "one:/d/f lfile",
    ],
)  # fmt: skip
def test_cp_does_what_docker_does(both: Both, words: str, tmp_path: Path) -> None:
    found: list[list[Any]] = [[], []]
    inside = "find /tmp /d /nowhere /dang /relative 2>/dev/null | sort | xargs stat -c '%n %u:%g %A'"
    here = tmp_path / "here"
    for index, name in enumerate(("stead", "docker")):
        shutil.rmtree(here, ignore_errors=True)
        (here / "dir/inner").mkdir(parents=True)
        (here / "dir/a").write_text("a")
        (here / "file").write_text("hi")
        os.chown(here / "file", 1234, 4321)
        (here / "lfile").symlink_to("file")
        (here / "ldir").symlink_to("dir")
        if name == "stead":
            roots = ("--root", str(both.box.paths.root), "--run", str(both.box.paths.run))
            with contextlib.chdir(here):
                found[index].append(main([*roots, "cp", *words.split()]))
            found[index].append(both.box.exec("one", "sh", "-c", inside).text)
        else:
            environment = {**os.environ, "DOCKER_HOST": both.docker.host}
            command = ["docker", "cp", *words.split()]
            done = subprocess.run(command, cwd=here, env=environment, capture_output=True, timeout=60)
            found[index].append(done.returncode)
            found[index].append(both.docker.run("exec", "one", "sh", "-c", inside).out)
        found[index] += sorted(
            (str(path.relative_to(here)), path.is_symlink(), path.lstat().st_uid, path.lstat().st_mode)
            for path in here.rglob("*")
        )
    assert found[0] == found[1]
