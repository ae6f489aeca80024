"""Files between this machine and containers: docker's rules, and no way out of a container. Needs root."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.main import main
from runtime.backups.holds import COPYING, Holds
from runtime.cp.copying import Copying
from runtime.faults import Fault
from runtime.wishes import VolumeRequest
from specs.values import MountPoint
from tests.kernel.docker_box import Said
from tests.kernel.engine_box import Engine, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MAKE = """
mkdir -p /d/sub; echo f > /d/f; chown 1234:4321 /d/f; chmod 4640 /d/f; ln -s /d /ld; ln -s f /d/lf
ln -s nowhere /dang; ln -s /etc/passwd /lp; echo v > /vol/inside; echo up; exec sleep 1000
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("cp")) as made:
        made.runtime.create_volume(VolumeRequest("t/vol", "t", "f"))
        yield made


@pytest.fixture(scope="module", params=["running", "stopped"])
def name(request: pytest.FixtureRequest, box: Engine) -> Iterator[str]:
    made = box.start(
        MAKE, mounts=(MountPoint("volume", "t/vol", "/vol"), MountPoint("volume", "t/vol", "/ro", True))
    )
    until(lambda: "up" in box.output(made))
    if request.param == "stopped":
        box.runtime.stop_container(made)
    yield made
    box.runtime.remove_container(made)


class Cp:
    """`stead cp` in a directory of its own, with c: for the container."""

    def __init__(self, box: Engine, name: str, here: Path) -> None:
        self._box, self._name, self.here = box, name, here

    def run(self, *words: str, stdin: bytes = b"") -> tuple[Said, bytes]:
        given = [f"{self._name}:{word[2:]}" if word.startswith("c:") else word for word in words]
        if "-" in words:
            command = self._box.stead("cp", *given)
            done = subprocess.run(command, input=stdin, capture_output=True, cwd=self.here, timeout=60)
            return Said(done.returncode, "", done.stderr.decode()), done.stdout
        roots = ("--root", str(self._box.paths.root), "--run", str(self._box.paths.run))
        errors = io.StringIO()
        with contextlib.chdir(self.here), contextlib.redirect_stderr(errors):
            code = main([*roots, "cp", *given])
        return Said(code, "", errors.getvalue()), b""

    def __call__(self, *words: str) -> None:
        said, _ = self.run(*words)
        assert said.code == 0, said.errors

    def refused(self, *words: str) -> str:
        said, _ = self.run(*words)
        assert said.code == 1, said
        return said.errors

    def tar(self, path: str) -> list[tarfile.TarInfo]:
        runtime = self._box.runtime
        record = runtime.containers.record(self._name, "look at")
        with tempfile.TemporaryFile() as file:
            Copying(self._box.paths, runtime.images, record).archive(path[2:], file.fileno(), follow=False)
            file.seek(0)
            with tarfile.open(fileobj=io.BytesIO(file.read())) as archive:
                return archive.getmembers()

    def stat(self, path: str) -> tarfile.TarInfo:
        """Of a path in the container, by a tar of it."""
        (first, *_) = self.tar(f"c:{path}")
        return first

    def list(self, path: str) -> list[str]:
        names = [item.name for item in self.tar(f"c:{path}/.")]
        return sorted({item.removeprefix("./").split("/")[0] for item in names} - {"."})


@pytest.fixture
def cp(box: Engine, name: str, tmp_path: Path) -> Cp:
    here = tmp_path / "here"
    (here / "dir/sub").mkdir(parents=True)
    (here / "dir/a").write_text("a")
    (here / "dir/l").symlink_to("a")
    (here / "ldir").symlink_to("dir")
    (here / "file").write_text("hi")
    os.chown(here / "file", 1234, 4321)
    os.chmod(here / "file", 0o640)
    (here / "lfile").symlink_to("file")
    return Cp(box, name, here)


def test_what_is_copied_in_follows_dockers_rules(cp: Cp) -> None:
    cp("file", "c:/tmp/new")
    new = cp.stat("/tmp/new")
    assert (new.uid, new.gid, new.mode, new.size) == (1234, 4321, 0o640, 2)
    cp("dir", "c:/tmp/d2")
    assert cp.list("/tmp/d2") == ["a", "l", "sub"]
    cp("dir", "c:/tmp/d2")
    assert cp.list("/tmp/d2") == ["a", "dir", "l", "sub"]
    cp("dir/.", "c:/tmp/d3")
    cp("dir/", "c:/tmp/d4")
    assert cp.list("/tmp/d3") == cp.list("/tmp/d4") == ["a", "l", "sub"]
    cp("file", "c:/tmp")
    assert cp.stat("/tmp/file").size == 2 and cp.stat("/tmp").mode == 0o1777
    cp("file", "c:relative")
    assert cp.stat("/relative").size == 2
    cp("ldir", "c:/tmp/x1")
    assert cp.stat("/tmp/x1").linkname == "dir"
    cp("-L", "ldir", "c:/tmp/x2")
    assert cp.list("/tmp/x2") == ["a", "l", "sub"]
    cp("-L", "lfile", "c:/tmp/x3")
    assert cp.stat("/tmp/x3").isreg()


def test_links_in_the_container_lead_on_within_it(cp: Cp) -> None:
    cp("file", "c:/dang")
    assert cp.stat("/dang").linkname == "nowhere" and cp.stat("/nowhere").size == 2
    cp("file", "c:/ld")
    assert cp.list("/d") == ["f", "file", "lf", "sub"]
    before = Path("/etc/passwd").read_bytes()
    cp("file", "c:/lp")
    assert cp.stat("/lp").linkname == "/etc/passwd" and cp.stat("/etc/passwd").size == 2
    assert Path("/etc/passwd").read_bytes() == before


def test_what_makes_no_sense_is_refused_as_docker_refuses_it(cp: Cp) -> None:
    assert "there is no such directory" in cp.refused("file", "c:/tmp/nodir/")
    assert "/no does not exist" in cp.refused("file", "c:/no/parent")
    cp("file", "c:/tmp/new")
    assert "cannot copy a directory onto a file" in cp.refused("dir", "c:/tmp/new")
    assert "not a directory" in cp.refused("file/", "c:/tmp/x")
    assert "there is no" in cp.refused("nofile", "c:/tmp/x")
    assert "there is no /nofile" in cp.refused("c:/nofile", "o")
    assert "not a directory" in cp.refused("c:/d/f/", "o")
    assert "cannot copy a directory onto a file" in cp.refused("c:/d", "file")
    assert "does not exist" in cp.refused("c:/d/f", "no/x")
    assert "no such directory" in cp.refused("c:/d/f", "nod/")
    assert "between containers" in cp.refused("c:/d", "c:/e")
    assert "at least one container" in cp.refused("a", "b")
    (cp.here / "dir2/f").mkdir(parents=True)
    assert "cannot take the place of" in cp.refused("dir2/.", "c:/d")
    assert cp.stat("/d/f").isreg()
    (cp.here / "dir3").mkdir()
    (cp.here / "dir3/sub").write_text("x")
    assert "cannot take the place of" in cp.refused("dir3/.", "c:/d")
    assert cp.stat("/d/sub").isdir()


def test_what_is_copied_out_belongs_to_who_asks_unless_all_is_to_be_kept(cp: Cp) -> None:
    cp("c:/d", "o1")
    status = (cp.here / "o1/f").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o4640)
    assert os.readlink(cp.here / "o1/lf") == "f" and (cp.here / "o1/sub").is_dir()
    cp("c:/d", "o1")
    assert (cp.here / "o1/d/f").read_text() == "f\n"
    cp("-a", "c:/d/.", "o2")
    assert (cp.here / "o2/f").stat().st_uid == 1234
    cp("c:/ld", "o3")
    assert os.readlink(cp.here / "o3") == "/d"
    for source, target in (("c:/ld/", "o4"), ("c:/ld/.", "o5")):
        cp(source, target)
        assert (cp.here / target / "f").exists()
    cp("-L", "c:/ld", ".")
    assert (cp.here / "ld/f").exists()
    cp("c:/d/f", "lfile")
    assert (cp.here / "lfile").is_symlink() and (cp.here / "file").read_text() == "f\n"


def test_a_tar_goes_out_and_in(cp: Cp) -> None:
    said, data = cp.run("c:/d/f", "-")
    assert said.code == 0, said.errors
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["f"]
    found = {item.name: item for item in cp.tar("c:/d")}
    assert found["d"].isdir() and (found["d/f"].uid, found["d/f"].mode) == (1234, 0o4640)
    assert [item.name for item in cp.tar("c:/ld")] == ["ld"]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(cp.here / "dir", "packed")
    said, _ = cp.run("-", "c:/vol", stdin=out.getvalue())
    assert said.code == 0, said.errors
    assert cp.list("/vol/packed") == ["a", "l", "sub"]
    said, _ = cp.run("-", "c:/etc/group", stdin=out.getvalue())
    assert said.code == 1 and "must be a directory" in said.errors
    said, _ = cp.run("-", "c:/vol", stdin=b"no tar at all" * 100)
    assert said.code == 1 and "header" in said.errors


def test_volumes_are_part_of_it_and_read_only_ones_are_not_written(cp: Cp, box: Engine) -> None:
    cp("file", "c:/vol/here")
    volume = next(item for item in box.runtime.volumes.list() if item.name == "t/vol")
    assert (volume.path / "here").read_text() == "hi"
    assert cp.stat("/ro/inside").size == 2
    assert "mounted read-only" in cp.refused("file", "c:/ro/x")


def test_holes_hard_links_devices_and_pipes_stay_what_they_are(cp: Cp) -> None:
    odd = cp.here / "odd"
    odd.mkdir()
    with open(odd / "sparse", "wb") as file:
        file.truncate(1 << 30)
        file.seek(100 << 20)
        file.write(b"middle" * 1000)
    os.link(odd / "sparse", odd / "zlink")
    os.mkfifo(odd / "pipe")
    os.mknod(odd / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    cp("odd", "c:/tmp/odd")
    cp("c:/tmp/odd", "back")
    back = cp.here / "back"
    status = (back / "sparse").stat()
    assert status.st_size == 1 << 30 and status.st_blocks * 512 < 1 << 20
    with open(back / "sparse", "rb") as file:
        file.seek((100 << 20) - 1)
        assert file.read(7) == b"\0middle"
    assert (back / "zlink").stat().st_ino == status.st_ino
    assert stat.S_ISFIFO((back / "pipe").stat().st_mode)
    assert (back / "null").stat().st_rdev == os.makedev(1, 3)


# ---------------------------------------------------------------- one container, in one state


def test_a_container_that_was_never_started_is_filled_before(box: Engine, tmp_path: Path) -> None:
    name = box.create("cat /made; cat /etc/added/deep", environment={})
    cp = Cp(box, name, tmp_path)
    (tmp_path / "made").write_text("before\n")
    (tmp_path / "added").mkdir()
    (tmp_path / "added/deep").write_text("deep\n")
    cp("made", "c:/made")
    cp("added", "c:/etc")
    box.runtime.start_container(name)
    assert box.result(name).text == "before\ndeep\n"
    cp("c:/made", "back")
    assert (tmp_path / "back").read_text() == "before\n"
    box.runtime.remove_container(name)


def test_what_is_copied_with_is_not_started_meanwhile(box: Engine, tmp_path: Path) -> None:
    name = box.create("exec sleep 1000")
    held = f"{COPYING}{box.id(name)}"
    with (
        Holds(box.paths).hold(held, "being copied"),
        pytest.raises(Fault, match="its file system is being copied"),
    ):
        box.runtime.start_container(name)
    box.runtime.start_container(name)
    with Holds(box.paths).hold(held, "being copied"):
        Cp(box, name, tmp_path)("c:/etc/passwd", "out")  # of what runs nothing is mounted anew
    box.runtime.remove_container(name)


def test_nothing_of_a_copy_or_a_start_stays_when_the_container_is_gone(box: Engine, tmp_path: Path) -> None:
    holds = box.paths.run / "holds"
    before = set(os.listdir(holds))
    name = box.start("true")
    until(lambda: box.state(name).phase == "exited")
    Cp(box, name, tmp_path).run("c:/etc/passwd", "x")
    assert set(os.listdir(holds)) > before
    box.runtime.remove_container(name)
    assert set(os.listdir(holds)) == before


def test_a_directory_that_is_removed_while_it_is_filled_is_named(
    box: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the worker, which is a fork of this process: who copies is not said to have been killed."""
    made = os.mkdir

    def gone(path: object, *arguments: object, **more: object) -> None:
        made(path, *arguments, **more)  # type: ignore[arg-type]
        if path == b"sub":
            os.rmdir(path, dir_fd=more["dir_fd"])  # type: ignore[arg-type]

    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("x")
    name = box.start("sleep 1000")
    monkeypatch.setattr(os, "mkdir", gone)
    said, _ = Cp(box, name, tmp_path).run("tree", "c:/tmp")
    monkeypatch.undo()
    assert said.code == 1 and "no such file or directory (tree/sub)" in said.errors, said
    box.runtime.remove_container(name)


def test_a_read_only_root_is_not_written_its_volumes_are(box: Engine, tmp_path: Path) -> None:
    mounts = (MountPoint("volume", "t/vol", "/vol"),)
    name = box.start("exec sleep 1000", read_only=True, mounts=mounts)
    cp = Cp(box, name, tmp_path)
    (tmp_path / "file").write_text("x")
    for _ in ("running", "stopped"):
        assert "root file system is read-only" in cp.refused("file", "c:/tmp/x")
        cp("file", "c:/vol/x")
        box.runtime.stop_container(name)
    box.runtime.remove_container(name)


def test_files_of_the_kernel_are_not_copied_and_not_entered(box: Engine, tmp_path: Path) -> None:
    name = box.start("exec sleep 1000")
    cp = Cp(box, name, tmp_path)
    assert "the kernel's own" in cp.refused("c:/proc", "o")
    names = [item.name for item in cp.tar("c:/")]
    assert {"./proc", "./sys", "./dev", "./etc/passwd"} <= set(names)
    assert not any(item.startswith(("./proc/", "./sys/", "./dev/")) for item in names)
    box.exec(name, "echo shared > /dev/shm/file")
    cp("c:/dev/shm/file", "shm")
    assert (tmp_path / "shm").read_text() == "shared\n"
    box.runtime.remove_container(name)


def test_with_archive_what_comes_in_belongs_to_the_containers_user(box: Engine, tmp_path: Path) -> None:
    name = box.start("exec sleep 1000", user="web")
    cp = Cp(box, name, tmp_path)
    (tmp_path / "file").write_text("x")
    cp("-a", "file", "c:/tmp/own")
    assert (cp.stat("/tmp/own").uid, cp.stat("/tmp/own").gid) == (1000, 1000)
    box.runtime.remove_container(name)


def test_a_file_that_something_is_mounted_on_gets_the_content(box: Engine, tmp_path: Path) -> None:
    name = box.start("exec sleep 1000")
    cp = Cp(box, name, tmp_path)
    (tmp_path / "hosts").write_text("127.0.0.9 own\n")
    cp("hosts", "c:/etc/hosts")
    assert box.exec(name, "cat /etc/hosts").text == "127.0.0.9 own\n"
    box.runtime.remove_container(name)


# ---------------------------------------------------------------- a container that wants out


def test_links_that_a_container_swaps_all_the_time_never_lead_out_of_it(box: Engine, tmp_path: Path) -> None:
    """CVE-2018-15664: the path is looked at, and is another one when it is opened."""
    secret, trap = tmp_path / "host/secret", tmp_path / "host"
    trap.mkdir()
    secret.write_text("of the host")
    swap = f"""
    mkdir -p /a/x{trap} /b; echo inside > /a/x/secret; echo inside > /a/x{secret}; cd /
    while :; do mv /a/x /b/x; ln -s {trap} /a/x; rm /a/x; mv /b/x /a/x; done
    """
    name = box.start(swap)
    cp = Cp(box, name, tmp_path)
    until(lambda: box.exec(name, "test -d /b").code == 0)
    (tmp_path / "new").write_text("from cp")
    for turn in range(8):
        cp.run("c:/a/x/secret", f"got{turn}")
        got = tmp_path / f"got{turn}"
        assert not got.exists() or got.read_text() in ("inside\n", "from cp")
        cp.run("new", "c:/a/x/written")
        cp.run("new", "c:/a/x/secret")
    assert os.listdir(trap) == ["secret"] and secret.read_text() == "of the host"
    box.runtime.remove_container(name)


def test_what_copies_loads_nothing_from_the_container(box: Engine, tmp_path: Path) -> None:
    """CVE-2019-14271: a helper that entered the container loaded its libraries and name services."""
    name = box.start("exec sleep 1000")
    cp = Cp(box, name, tmp_path)
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 1000, 1000)
    script = box.stead("cp", "file", f"{name}:/tmp/x")
    program = (
        "import sys, runpy, os\n"
        "from runtime.cp import worker\n"
        "plain = worker._answer\n"
        "def traced(entered, request, data, fds):\n"
        "    found = plain(entered, request, data, fds)\n"
        "    sys.path.append('/'); sys.path_importer_cache.clear()\n"
        "    try:\n"
        "        import colorsys\n"
        "    except ImportError:\n"
        "        return found\n"
        "    os._exit(9)\n"
        "worker._answer = traced\n"
        "from agent.cli.main import main\n"
        f"sys.exit(main({script[3:]!r}))\n"
    )
    (box.paths.rootfs(box.id(name)) / "colorsys.py").write_text("raise SystemExit('ran in the helper')")
    done = subprocess.run(
        [script[0], "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert cp.stat("/tmp/x").size == 1
    box.runtime.remove_container(name)
