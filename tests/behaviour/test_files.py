"""Volumes, binds, mounts in memory, and copies in and out."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour.engines import CONFIGURED, IMAGE, Engine

pytestmark = pytest.mark.root


@pytest.fixture
def volume(engine: Engine, name: str) -> Iterator[str]:
    """A volume's name that is the test's own."""
    made = f"{name[:30]}-data"
    yield made
    engine.forget(name)
    engine.call("volume", "rm", "-f", made)


@pytest.fixture(scope="module")
def box(engine: Engine) -> Iterator[str]:
    """Was never started; /tmp is there."""
    name = "copy-box"
    engine.do("create", "--name", name, "--network", "none", IMAGE, "sleep", "1000")
    yield name
    engine.forget(name)


def test_a_new_volume_begins_with_what_the_image_has_there(engine: Engine, volume: str) -> None:
    script = "cat /seed/file; ls -ln /seed/file | awk '{print $1, $3, $4}'; ls -ldn /seed | awk '{print $3}'"
    said = engine.sh(script, "-v", f"{volume}:/seed")
    assert said.out.split() == ["seed", "-rw-r-----", "1000", "1000", "1000"]


def test_a_volume_with_nocopy_begins_empty(engine: Engine, volume: str) -> None:
    assert engine.sh("ls /seed", "-v", f"{volume}:/seed:nocopy").out == ""


def test_a_volume_keeps_what_was_written_and_is_not_filled_again(engine: Engine, volume: str) -> None:
    engine.sh("rm /seed/file; echo kept > /seed/own", "-v", f"{volume}:/seed")
    assert engine.sh("ls /seed; cat /seed/own", "-v", f"{volume}:/seed").out.split() == [
        "deep",
        "own",
        "kept",
    ]


def test_a_read_only_volume_cannot_be_written(engine: Engine, volume: str) -> None:
    assert engine.sh("touch /d/x 2>/dev/null || echo refused", "-v", f"{volume}:/d:ro").out == "refused\n"


def test_a_volume_that_a_container_has_cannot_be_removed(engine: Engine, name: str, volume: str) -> None:
    engine.do("create", "--name", name, "--network", "none", "-v", f"{volume}:/d", IMAGE, "true")
    engine.fails("volume", "rm", volume)
    engine.do("rm", name)
    assert engine.do("volume", "rm", volume) == volume


def test_a_volume_is_made_once_and_listed(engine: Engine, volume: str) -> None:
    assert engine.do("volume", "create", volume) == volume
    assert volume in engine.do("volume", "ls", "-q").split()
    assert engine.do("volume", "inspect", "-f", "{{.Name}} {{.Driver}}", volume) == f"{volume} local"


def test_volumes_of_another_container_are_mounted_with_volumes_from(
    engine: Engine, name: str, volume: str
) -> None:
    engine.do("create", "--name", name, "--network", "none", "-v", f"{volume}:/seed", IMAGE, "true")
    assert engine.sh("cat /seed/file", "--volumes-from", name).out == "seed\n"
    assert engine.sh("touch /seed/x || echo no", "--volumes-from", f"{name}:ro").out == "no\n"


def test_an_anonymous_volume_of_the_image_goes_with_v(engine: Engine, name: str) -> None:
    engine.do("create", "--name", name, "--network", "none", CONFIGURED)
    volume = engine.field(name, "{{range .Mounts}}{{.Name}}{{end}}")
    assert volume in engine.do("volume", "ls", "-q").split()
    engine.do("rm", "-v", name)
    assert volume not in engine.do("volume", "ls", "-q").split()


def test_an_anonymous_volume_goes_with_rm(engine: Engine, name: str) -> None:
    before = set(engine.do("volume", "ls", "-q").split())
    assert engine.sh("cat /seed/file", "-v", "/seed").out == "seed\n"
    assert set(engine.do("volume", "ls", "-q").split()) == before


def test_a_bind_is_the_hosts_directory_in_both_directions(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    said = engine.sh("cat /b/in; echo from within > /b/out", "-v", f"{tmp_path}:/b")
    assert said.out == "from the host\n" and (tmp_path / "out").read_text() == "from within\n"


def test_a_bind_hides_what_the_image_has_there(engine: Engine, tmp_path: Path) -> None:
    assert engine.sh("ls /seed", "-v", f"{tmp_path}:/seed").out == ""


def test_a_read_only_bind_cannot_be_written(engine: Engine, tmp_path: Path) -> None:
    assert engine.sh("touch /b/x 2>/dev/null || echo no", "-v", f"{tmp_path}:/b:ro").out == "no\n"
    mount = f"type=bind,source={tmp_path},target=/b,readonly"
    assert engine.sh("touch /b/x 2>/dev/null || echo no", "--mount", mount).out == "no\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_can_be_bound(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound\n")
    assert engine.sh("cat /etc/own", "-v", f"{tmp_path}/file:/etc/own").out == "bound\n"


def test_mount_wants_a_source_that_is_there(engine: Engine, tmp_path: Path) -> None:
    mount = f"type=bind,source={tmp_path}/missing,target=/b"
    assert engine.sh("true", "--mount", mount).code == 125


def test_two_mounts_at_one_place_are_refused(engine: Engine, tmp_path: Path) -> None:
    assert engine.sh("true", "-v", f"{tmp_path}:/b", "-v", "/tmp:/b").code == 125


def test_a_mount_in_memory_has_the_size_and_mode_that_were_said(engine: Engine) -> None:
    mount = "type=tmpfs,target=/m,tmpfs-size=1048576,tmpfs-mode=0700"
    said = engine.sh("df -k /m | tail -n 1 | awk '{print $2}'; ls -ld /m | cut -c 1-10", "--mount", mount)
    assert said.out.split() == ["1024", "drwx------"]


def test_cp_puts_a_file_into_a_container_and_takes_it_out(engine: Engine, box: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text\n")
    (tmp_path / "file").chmod(0o741)
    engine.do("cp", str(tmp_path / "file"), f"{box}:/tmp/file")
    engine.do("cp", f"{box}:/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "text\n"
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o741


def test_cp_of_a_directory_goes_into_one_that_is_there_and_becomes_one_that_is_not(
    engine: Engine, box: str, tmp_path: Path
) -> None:
    engine.do("cp", f"{box}:/seed", str(tmp_path))
    engine.do("cp", f"{box}:/seed", str(tmp_path / "new"))
    engine.do("cp", f"{box}:/seed/.", str(tmp_path))
    assert (tmp_path / "seed" / "file").is_file() and (tmp_path / "new" / "file").is_file()
    assert (tmp_path / "file").read_text() == "seed\n" and (tmp_path / "deep").is_dir()


@pytest.mark.differs("an empty path is its working directory", "podman")
def test_cp_takes_no_empty_path_of_a_container(engine: Engine, name: str, tmp_path: Path) -> None:
    engine.do("create", "--name", name, IMAGE, "true")
    engine.fails("cp", f"{name}:", str(tmp_path / "out"), code=1)
    (tmp_path / "file").write_text("")
    engine.fails("cp", str(tmp_path / "file"), f"{name}:", code=1)
    assert not (tmp_path / "out").exists()


def test_cp_of_what_is_not_there_fails_on_both_sides(engine: Engine, box: str, tmp_path: Path) -> None:
    engine.fails("cp", f"{box}:/not/there", str(tmp_path))
    engine.fails("cp", str(tmp_path / "missing"), f"{box}:/tmp")
    engine.fails("cp", f"{box}:/seed/file", str(tmp_path / "missing" / "deep" / "file"))
    engine.fails("cp", "nobody-here:/seed/file", str(tmp_path))


def test_cp_does_not_put_a_directory_in_the_place_of_a_file(engine: Engine, box: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    engine.fails("cp", f"{box}:/seed", str(tmp_path / "file"))


def test_cp_writes_and_reads_a_tar(engine: Engine, box: str, tmp_path: Path) -> None:
    done = subprocess.run(
        engine.command("cp", f"{box}:/seed", "-"), env=engine.environment, capture_output=True
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert {name.rstrip("/") for name in tar.getnames()} == {"seed", "seed/file", "seed/deep"}


def test_cp_keeps_links_as_links(engine: Engine, box: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "link").symlink_to("/etc/passwd")
    engine.do("cp", str(tmp_path / "there"), f"{box}:/tmp/links")
    engine.do("cp", f"{box}:/tmp/links", str(tmp_path / "back"))
    assert str((tmp_path / "back" / "link").readlink()) == "/etc/passwd"


def test_export_is_the_whole_root(engine: Engine, box: str, tmp_path: Path) -> None:
    done = subprocess.run(engine.command("export", box), env=engine.environment, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert {"bin/busybox", "seed/file", "etc/passwd"} <= {
            name.removeprefix("./") for name in tar.getnames()
        }


def test_commit_makes_an_image_of_what_was_written(engine: Engine, name: str) -> None:
    words = ("--name", name, "--network", "none", IMAGE, "sh", "-c", "echo written > /new")
    engine.do("run", *words)
    engine.do("commit", "-c", "ENV COMMITTED=yes", name, "bench/committed:1")
    try:
        assert engine.sh("cat /new; echo $COMMITTED", image="bench/committed:1").out == "written\nyes\n"
    finally:
        engine.call("image", "rm", "bench/committed:1")
