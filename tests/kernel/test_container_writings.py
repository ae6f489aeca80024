"""What a container wrote is compared, exported and committed: all of it, and nothing that is not its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import attend
from runtime.build.problems import DockerfileError
from runtime.commit import CommitRequest, Writings
from runtime.faults import Fault
from runtime.linux import cgroups, mounts
from runtime.paths import Paths
from runtime.prepare import cgroup_path
from runtime.records import ContainerRecord
from runtime.wishes import ProbeRequest
from specs.values import ImageRef
from tests.kernel.engine_box import IMAGE, Engine, bind, engine
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers"),
]

NOW = "2030-01-02T03:04:05Z"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("writings")) as made:
        yield made


def writings(box: Engine) -> Writings:
    return Writings(box.paths, box.runtime.images, cgroups.detect())


def record(box: Engine, name: str) -> ContainerRecord:
    return attend.find(box.paths, name)


def diff(box: Engine, name: str) -> list[str]:
    return [str(change) for change in writings(box).diff(record(box, name))]


def commit(box: Engine, container: str, **fields: Any) -> str:
    return writings(box).commit(record(box, container), CommitRequest(created=NOW, **fields))


def ended(box: Engine, script: str, **request: Any) -> str:
    """A container that ran to its end and is still there."""
    name = box.start(script, **request)
    assert box.result(name).code == 0
    return name


def members(box: Engine, name: str, path: Path) -> dict[str, tarfile.TarInfo]:
    path.write_bytes(b"".join(writings(box).export(record(box, name))))
    with tarfile.open(path) as archive:
        return {item.name: item for item in archive.getmembers()}


# ---------------------------------------------------------------- diff


def test_a_container_that_wrote_nothing_differs_in_nothing(box: Engine) -> None:
    name = ended(box, "true", mounts=(bind("/etc/hosts", "/etc/mine/hosts"),))
    assert (box.home(name) / "upper/etc/mine/hosts").exists()  # where the host's file was mounted
    assert diff(box, name) == []


def test_diff_says_what_was_added_changed_and_deleted(box: Engine) -> None:
    name = ended(
        box,
        "echo x > /etc/new; echo y >> /etc/passwd; rm /etc/group; mkdir -p /srv/a/b; chmod 700 /tmp;"
        " rm -r /home/web; mkdir /home/web",
    )
    assert diff(box, name) == [
        "C /etc",
        "D /etc/group",
        "A /etc/new",
        "C /etc/passwd",
        "C /home",
        "C /home/web",
        "A /srv",
        "A /srv/a",
        "A /srv/a/b",
        "C /tmp",
    ]


def test_what_goes_while_it_is_compared_is_left_out(box: Engine) -> None:
    name = box.start("mkdir -p /a/in /b/in; echo made; exec sleep 1000")
    until(lambda: "made" in box.output(name))
    changes = writings(box).diff(record(box, name))
    assert str(next(changes)) == "A /a"
    assert box.exec(name, "rm -r /a /b; touch /b").code == 0
    assert [str(change) for change in changes] == ["A /b"]
    box.runtime.remove_container(name)


def test_a_changed_name_is_one_line_that_no_terminal_obeys(box: Engine) -> None:
    name = ended(box, r"""cd /tmp; touch "$(printf 'a\nA etc\033[2J\377\302\233')" """)
    done = subprocess.run(box.stead("diff", name), capture_output=True, check=True)
    assert done.stdout.splitlines() == [b"C /tmp", rb"A /tmp/a\nA etc\x1b[2J\udcff\x9b"]
    box.runtime.remove_container(name)


def test_what_is_mounted_is_no_difference_also_behind_links(box: Engine, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/inside").write_text("x")
    first = ended(box, "mkdir /real; busybox ln -s /real /link")
    image = commit(box, first, name=ImageRef.parse("linked:1"))
    assert image
    given = (bind(str(tmp_path / "data"), "/link/deep/data"), bind(str(tmp_path / "data"), "/mnt/x"))
    name = ended(box, "ls /real/deep/data/inside", image=ImageRef.parse("linked:1"), mounts=given)
    assert diff(box, name) == []
    touched = ended(box, "echo > /real/deep/own", image=ImageRef.parse("linked:1"), mounts=given)
    assert diff(box, touched) == ["C /real", "A /real/deep", "A /real/deep/own"]


def test_a_container_that_never_ran_differs_in_nothing(box: Engine) -> None:
    name = box.create("true")
    assert diff(box, name) == []


# ---------------------------------------------------------------- export


@pytest.mark.parametrize("running", [True, False])
def test_export_is_the_whole_file_system_without_mounts(box: Engine, tmp_path: Path, running: bool) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/inside").write_text("x")
    script = "echo new > /etc/new; rm /etc/group; busybox ln /etc/new /etc/hard; mknod /root/null c 1 3"
    script += "; echo ready; sleep 1000" if running else ""
    given = (bind(str(tmp_path / "data"), "/data"),)
    if running:
        name = box.start(script, mounts=given)
        until(lambda: (box.home(name) / "upper/root/null").exists())
    else:
        name = ended(box, script, mounts=given)
    found = members(box, name, tmp_path / "export.tar")
    assert found["etc/hard"].size == 4 and "etc/group" not in found
    assert {found["etc/new"].type, found["etc/hard"].type} == {tarfile.REGTYPE, tarfile.LNKTYPE}
    assert found["root/null"].ischr()
    assert found["data"].isdir() and "data/inside" not in found
    assert found["bin/sh"].issym() and found["tmp"].mode == 0o1777
    assert not any(".wh." in item for item in found)
    assert [item for item in os.listdir(box.paths.run) if item.startswith("export")] == []
    box.runtime.remove_container(name)


def test_a_container_is_exported_after_a_boot_before_any_agent_ran(box: Engine, tmp_path: Path) -> None:
    name = ended(box, "echo x > /x")
    after = Paths(box.paths.root, tmp_path / "run")  # nothing of the former one is there
    it = Writings(after, box.runtime.images, cgroups.detect())
    box.runtime.stop_container(name)
    (tmp_path / "x.tar").write_bytes(b"".join(it.export(record(box, name))))
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert "x" in archive.getnames()


def test_an_exported_file_system_is_imported_as_the_same(box: Engine, tmp_path: Path) -> None:
    name = ended(box, "echo kept > /kept; chown 7:8 /kept; chmod 4755 /kept")
    members(box, name, tmp_path / "export.tar")
    box.runtime.import_image(tmp_path / "export.tar", ImageRef.parse("exported:1"))
    result = box.run("stat -c '%u %g %a' /kept; cat /kept", image=ImageRef.parse("exported:1"))
    assert result.lines == ["7 8 4755", "kept"]


# ---------------------------------------------------------------- commit


def test_a_committed_image_has_what_was_written_and_what_the_container_was_given(box: Engine) -> None:
    name = ended(
        box,
        "echo mine > /mine; rm /etc/group; rm -r /home; mkdir /home; echo z > /home/z",
        environment={"A": "1"},
        labels={"l": "v"},
        working_dir="/root",
        user="root",
        expose=("80",),
    )
    id = commit(box, name, name=ImageRef.parse("mine:1"), author="me", message="why")
    image = box.runtime.images.get("mine:1")
    assert image is not None and image.id == id
    assert len(image.chain_ids) == 2
    config = image.config["config"]
    assert config["Cmd"][:2] == ["sh", "-c"] and "A=1" in config["Env"]
    assert (config["Labels"], config["WorkingDir"], config["User"]) == ({"l": "v"}, "/root", "root")
    assert config["ExposedPorts"] == {"80/tcp": {}}
    assert image.config["author"] == "me" and image.config["created"] == NOW
    last = image.config["history"][-1]
    assert last["comment"] == "why" and last["author"] == "me" and last["created_by"].startswith("sh -c echo")
    assert len(image.config["history"]) == 2
    result = box.run("cat /mine; ls /home /etc; ls -A /", image=ImageRef.parse("mine:1"))
    assert result.lines[0] == "mine" and "z" in result.lines and "group" not in result.lines
    assert "web" not in result.lines
    row = box.runtime.database.read().execute("SELECT parent FROM images WHERE id = ?", (id,)).fetchone()
    assert row[0] == box.runtime.images.get(str(IMAGE)).id


def test_a_committed_layer_has_nothing_of_what_was_mounted(box: Engine, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/secret").write_text("x")
    name = ended(box, "echo mine > /etc/mine; rm /etc/group", mounts=(bind(str(tmp_path / "data"), "/a/b"),))
    image = box.runtime.images.get(commit(box, name))
    assert image is not None
    (tmp_path / "layer.tar").write_bytes(b"".join(box.runtime.images.layer_tar(image.chain_ids[-1])))
    with tarfile.open(tmp_path / "layer.tar") as archive:
        assert archive.getnames() == [".", "etc", "etc/.wh.group", "etc/mine"]


def test_nothing_written_is_no_layer(box: Engine) -> None:
    image = box.runtime.images.get(commit(box, ended(box, "true")))
    assert image is not None and len(image.chain_ids) == 1
    assert image.config["history"][-1]["empty_layer"] is True


def test_changes_come_last(box: Engine) -> None:
    name = ended(box, "true", environment={"A": "1"}, labels={"l": "v"})
    changes = (
        "CMD serve now",
        'ENTRYPOINT ["/bin/tool"]',
        "ENV A=2 B=$A",
        "EXPOSE 53/udp",
        "LABEL l=w m='x y'",
        "USER web",
        "VOLUME /data",
        "WORKDIR /srv",
        "STOPSIGNAL SIGINT",
        "HEALTHCHECK --retries=4 CMD true",
        "ONBUILD RUN date",
        'CMD ["a"]',
    )
    image = box.runtime.images.get(commit(box, name, changes=changes))
    assert image is not None
    assert image.config["config"] == {
        "Cmd": ["a"],
        "Entrypoint": ["/bin/tool"],
        "Env": ["A=2", "B=1"],
        "ExposedPorts": {"53/udp": {}},
        "Labels": {"l": "w", "m": "x y"},
        "User": "web",
        "Volumes": {"/data": {}},
        "WorkingDir": "/srv",
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Retries": 4},
        "OnBuild": ["RUN date"],
    }
    assert len(image.config["history"]) == 2


@pytest.mark.parametrize(
    ("probe", "wanted"),
    [
        (ProbeRequest(exec=("true",), interval=1.5, retries=2), {"Test": ["CMD", "true"], "Retries": 2}),
        (ProbeRequest(shell="true"), {"Test": ["CMD-SHELL", "true"], "Retries": 3}),
        (ProbeRequest(disabled=True), {"Test": ["NONE"]}),
        (ProbeRequest(tcp="80"), None),
    ],
)
def test_a_test_of_health_is_committed(
    box: Engine, probe: ProbeRequest, wanted: dict[str, Any] | None
) -> None:
    name = box.create("true", probe=probe)
    image = box.runtime.images.get(commit(box, name))
    assert image is not None
    found = image.config["config"].get("Healthcheck")
    if wanted is not None and "Retries" in wanted:
        assert found["Interval"] == probe.interval * 1e9
        found = {key: found[key] for key in wanted}
    assert found == wanted


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("RUN date", "--change 1: RUN is no change of an image's config"),
        ("FROM other", "--change 1: FROM is no change"),
        ("CMDD x", "--change 1: unknown instruction 'CMDD' (did you mean 'CMD'?)"),
        ("ENV", "--change 1:"),
    ],
)
def test_what_is_no_change_of_a_config_is_refused(box: Engine, change: str, text: str) -> None:
    name = ended(box, "true")
    with pytest.raises(DockerfileError) as caught:
        commit(box, name, changes=(change,))
    assert str(caught.value).startswith(text)


def test_a_running_container_is_paused_while_it_is_read_and_goes_on(box: Engine) -> None:
    name = box.start("i=0; while true; do i=$((i+1)); echo $i > /count; echo $i > /also; done")
    until(lambda: (box.home(name) / "upper/also").exists())
    image = box.runtime.images.get(commit(box, name))
    assert image is not None
    top = box.runtime.images.layers.path(image.chain_ids[-1])
    count, also = ((top / item).read_text() for item in ("count", "also"))
    assert count == also or count == "" or also == "" or int(count) == int(also) + 1
    before = (box.home(name) / "upper/count").stat().st_mtime_ns
    until(lambda: (box.home(name) / "upper/count").stat().st_mtime_ns != before)
    box.runtime.remove_container(name)


def test_a_container_goes_on_when_who_commits_it_is_killed(box: Engine, tmp_path: Path) -> None:
    name = box.start("while true; do echo x > /count; done")
    until(lambda: (box.home(name) / "upper/count").exists())
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from runtime import attend\n"
        "from runtime.commit import Writings\n"
        "from runtime.linux import cgroups\n"
        "from runtime.local import LocalRuntime\n"
        "from runtime.paths import Paths\n"
        "paths = Paths(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "runtime = LocalRuntime(paths)\n"
        "it = Writings(paths, runtime.images, cgroups.detect())\n"
        "with it._paused(attend.find(paths, sys.argv[3]), True):\n"
        "    print('paused', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code, str(box.paths.root), str(box.paths.run), name]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"paused\n"
    upper = box.home(name) / "upper/count"
    found, path = cgroups.detect(), cgroup_path(box.id(name))
    assert found.v2.is_frozen(path) if found.v2 else found.v1.freeze(path)
    stopped = upper.stat().st_mtime_ns
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: upper.stat().st_mtime_ns != stopped)
    process.stdin.close()
    process.stdout.close()
    box.runtime.remove_container(name)


def test_a_name_that_cannot_be_given_commits_nothing(box: Engine) -> None:
    name = ended(box, "true")
    before = box.runtime.images.list()
    with pytest.raises(Fault, match="a name with a digest cannot be given"):
        commit(box, name, name=ImageRef.parse(f"x@sha256:{'a' * 64}"))
    assert box.runtime.images.list() == before


def test_the_commands_say_what_they_did(box: Engine, tmp_path: Path) -> None:
    name = ended(box, "echo x > /x")

    def stead(*words: str) -> bytes:
        code = "from agent.cli.main import main; raise SystemExit(main())"
        command = [sys.executable, "-c", code, "--root", str(box.paths.root), "--run", str(box.paths.run)]
        return subprocess.run([*command, *words], check=True, stdout=subprocess.PIPE).stdout

    assert stead("container", "diff", name) == b"A /x\n"
    id = stead("container", "commit", "-p", "-m", "it", "-c", 'CMD ["x"]', name, "cli:1").decode().strip()
    assert box.runtime.images.get("cli:1").id == id
    assert json.loads(box.runtime.images.config_of(id))["config"]["Cmd"] == ["x"]
    stead("container", "export", "-o", str(tmp_path / "x.tar"), name)
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert archive.extractfile("x").read() == b"x\n"
    assert [item.target for item in mounts.table() if "export" in item.target] == []
