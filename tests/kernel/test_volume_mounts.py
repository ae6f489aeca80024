"""Parts of volumes, images, anonymous volumes and the options of mounts, looked at from inside. As root."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.linux import mounts, selinux
from runtime.observations import retired
from runtime.volumes.mounting import bind_options, tmpfs_options
from runtime.wishes import VolumeRequest
from specs.values import ImageRef, MountPoint
from tests.kernel.engine_box import Engine, bind, engine
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

#: An image that declares volumes at a directory with content, and at one that it does not have.
DATABASE = ImageRef.parse("tests/database:1")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    base = tmp_path_factory.mktemp("mounts")
    with engine(base) as made:
        (base / "image/database").touch()
        config = {"config": {"Volumes": {"/home": {}, "/var/lib/db/": {}}}}
        made.runtime.import_image(base / "image", DATABASE)
        _declare(made, config["config"])
        yield made


def _declare(machine: Engine, config: object) -> None:
    """The image gets this config, as its builder would have written it."""
    image = machine.runtime.images.get(str(DATABASE))
    assert image is not None
    with machine.runtime.database.write() as connection:
        text = json.dumps({**image.config, "config": config})
        connection.execute("UPDATE images SET config = ? WHERE id = ?", (text, image.id))


@pytest.fixture
def machine(shared: Engine) -> Iterator[Engine]:
    yield shared
    for name in shared.runtime.observe().containers:
        shared.runtime.remove_container(name)
    for volume in shared.runtime.volumes.list():
        shared.runtime.remove_volume(volume.name)


def volume(machine: Engine, name: str = "t/data") -> Path:
    machine.runtime.create_volume(VolumeRequest(name, "t", "f"))
    found = machine.runtime.volumes.get(name)
    assert found is not None
    return found.path


def fault(machine: Engine, *mounts: MountPoint) -> Fault:
    name = machine.create("true", mounts=mounts)
    with pytest.raises(Fault) as caught:
        machine.runtime.start_container(name)
    machine.runtime.remove_container(name)
    return caught.value


# ---------------------------------------------------------------- parts of volumes


def test_a_part_of_a_volume_is_mounted_a_directory_or_a_file(machine: Engine) -> None:
    data = volume(machine)
    (data / "deep/er").mkdir(parents=True)
    (data / "deep/er/file").write_text("inner\n")
    part = MountPoint("volume", "t/data", "/part", subpath="deep")
    file = MountPoint("volume", "t/data", "/one", True, subpath="deep/er/file")
    found = machine.run("cat /part/er/file /one; echo new >/part/new; echo x >/one", mounts=(part, file))
    assert found.lines == ["inner", "inner"] and "Read-only" in found.errors
    assert (data / "deep/new").read_text() == "new\n"
    assert not (data / "web").exists(), "a part gets no content of the image"
    missing = fault(machine, MountPoint("volume", "t/data", "/part", subpath="deep/not"))
    assert missing.code == "mount-source-missing" and "volume t/data has no deep/not" in str(missing)


def test_no_link_in_a_volume_leads_out_of_it(machine: Engine, tmp_path: Path) -> None:
    data = volume(machine)
    (tmp_path / "secret").mkdir()
    (data / "inside").mkdir()
    os.symlink(tmp_path / "secret", data / "absolute")
    os.symlink("../../../../../../../../../../etc", data / "up")
    os.symlink("/inside", data / "well")
    os.symlink("/proc/self/root", data / "magic")
    for link in ("absolute", "up", "magic"):
        refused = fault(machine, MountPoint("volume", "t/data", "/part", subpath=link))
        assert refused.code == "mount-source-missing", link
    well = MountPoint("volume", "t/data", "/part", subpath="well")
    machine.run("echo here >/part/file", mounts=(well,))
    assert (data / "inside/file").exists(), "links are followed within"
    assert os.listdir(tmp_path / "secret") == []


def test_a_part_stays_over_a_restart_and_is_mended(machine: Engine) -> None:
    data = volume(machine)
    (data / "deep").mkdir()
    part = MountPoint("volume", "t/data", "/part", subpath="deep")
    name = machine.start("echo run >>/part/log; echo done; sleep 1000", mounts=(part,))
    until(lambda: machine.output(name) == "done\n")
    helper = machine.live(name) / "mount-0"
    subprocess.run(["umount", str(helper)], check=True)
    (defect,) = machine.runtime.observe().containers[name].defects
    assert defect.text == "what it has at /part is not mounted"
    machine.runtime.repair_container(name)
    assert machine.runtime.observe().containers[name].defects == ()
    assert mounts.is_mounted(helper)
    machine.runtime.stop_container(name)
    assert not helper.exists()
    machine.runtime.start_container(name)
    until(lambda: machine.output(name) == "done\n" * 2)
    assert machine.exec(name, "cat /part/log").lines == ["run", "run"]


# ---------------------------------------------------------------- images


def test_an_image_is_mounted_read_only_whole_or_in_part_and_is_kept_meanwhile(machine: Engine) -> None:
    other = machine.base / "other"
    if not other.exists():
        (other / "usr/share").mkdir(parents=True)
        (other / "usr/share/words").write_text("word\n")
    ref = ImageRef.parse("tests/words:1")
    id = machine.runtime.import_image(other, ref)
    whole = MountPoint("image", str(ref), "/whole", True)
    part = MountPoint("image", str(ref), "/part", True, subpath="usr/share")
    file = MountPoint("image", str(ref), "/word", True, subpath="usr/share/words")
    script = "cat /whole/usr/share/words /part/words /word; touch /whole/x /part/x; sleep 1000"
    name = machine.start(script, mounts=(whole, part, file))
    try:
        assert machine.exec(name, "cat /word").text == "word\n"
        with pytest.raises(Fault, match=name) as caught:
            machine.runtime.remove_image(str(ref))
        assert caught.value.code == "image-in-use"
        assert machine.runtime.observe().containers[name].mounted_images == ((str(ref), id),)
        machine.runtime.stop_container(name)
        assert machine.output(name) == "word\n" * 3
        assert machine.output(name, 2).count("Read-only file system") == 2
        missing = fault(machine, MountPoint("image", str(ref), "/part", True, subpath="usr/lib"))
        assert f"image {ref} has no usr/lib" in str(missing)
    finally:
        machine.runtime.remove_container(name)
    machine.runtime.remove_image(str(ref))


# ---------------------------------------------------------------- anonymous volumes


def test_volumes_that_the_image_declares_are_made_filled_and_kept_over_a_replacement(machine: Engine) -> None:
    script = "ls /home; echo $$ >>/var/lib/db/log; echo mine >/home/web/mine; sleep 1000"
    name = machine.start(script, name="t/db", image=DATABASE)
    seen = machine.runtime.observe()
    assert {volume.anonymous for volume in seen.volumes.values()} == {True}
    assert sorted(seen.containers[name].volumes) == sorted(seen.volumes) and len(seen.volumes) == 2
    machine.runtime.remove_container(name, replaced=True)
    assert machine.runtime.observe().volumes.keys() == seen.volumes.keys()
    machine.start("cat /home/web/mine; wc -l </var/lib/db/log; sleep 1000", name="t/db", image=DATABASE)
    machine.exec(name, "true")
    assert machine.runtime.observe().volumes.keys() == seen.volumes.keys()
    machine.runtime.stop_container(name)
    assert machine.output(name).split() == ["mine", "1"]
    machine.runtime.remove_container(name)
    assert machine.runtime.volumes.list() == [] and os.listdir(machine.paths.volumes) == []


def test_a_container_that_starts_before_its_predecessor_goes_has_the_same_volume(machine: Engine) -> None:
    mounts = (MountPoint("volume", "", "/data"),)
    name = machine.start("echo old >/data/old; sleep 1000", name="t/web", mounts=mounts)
    (volume,) = machine.runtime.volumes.list()
    until(lambda: (volume.path / "old").exists())
    machine.runtime.retire_container(name)
    machine.start("sleep 1000", name=name, mounts=mounts)
    assert machine.exec(name, "cat /data/old").text == "old\n"
    machine.runtime.remove_container(retired(name), replaced=True)
    assert [one.name for one in machine.runtime.volumes.list()] == [volume.name]
    assert machine.exec(name, "cat /data/old").text == "old\n"
    machine.runtime.remove_container(name)
    assert machine.runtime.volumes.list() == []


def test_a_mount_of_the_spec_takes_the_place_of_a_declared_volume(machine: Engine) -> None:
    data = volume(machine)
    given = (MountPoint("volume", "t/data", "/home"), MountPoint("tmpfs", "", "/var/lib/db"))
    machine.run("touch /home/web/here /var/lib/db/lost", image=DATABASE, mounts=given)
    assert (data / "web/here").exists()
    assert [volume.name for volume in machine.runtime.volumes.list()] == ["t/data"]
    anonymous = MountPoint("volume", "", "/home", nocopy=True, labels=(("a", "b"),))
    name = machine.start("ls /home; sleep 1000", mounts=(anonymous,))
    (made,) = (one for one in machine.runtime.volumes.list() if one.anonymous)
    assert made.labels == {"a": "b"} and os.listdir(made.path) == []
    with pytest.raises(Fault, match=f"used by {name}") as caught:
        machine.runtime.remove_volume(made.name)
    assert caught.value.code == "volume-in-use"


def test_a_container_of_an_older_release_takes_its_data_into_the_volume_that_it_gets(machine: Engine) -> None:
    """It wrote to its own layer where the image declares a volume, which nobody made."""
    name = machine.create("cat /home/web/old; sleep 1000", image=DATABASE)
    with machine.runtime.database.write() as connection:
        connection.execute("DELETE FROM anonymous_volumes")
        connection.execute("DELETE FROM volumes")
    upper = machine.home(name) / "upper" / "home" / "web"
    upper.mkdir(parents=True)
    (upper / "old").write_text("kept\n")
    machine.runtime.start_container(name)
    assert len(machine.runtime.volumes.list()) == 2
    machine.runtime.stop_container(name)
    assert machine.output(name) == "kept\n"


# ---------------------------------------------------------------- options of mounts


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory with another file system mounted below it."""
    (tmp_path / "tree/below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path / "tree/below")], check=True)
    (tmp_path / "tree/below/file").write_text("below\n")
    yield tmp_path / "tree"
    subprocess.run(["umount", str(tmp_path / "tree/below")], check=True)


@pytest.mark.parametrize(
    ("recursive", "read_only", "seen", "refused"),
    [
        ("", True, "below", {"top", "below"}),
        ("", False, "below", set()),
        ("disabled", True, "", {"top", "below"}),
        ("writable", True, "below", {"top"}),
        ("readonly", True, "below", {"top", "below"}),
    ],
)
def test_what_is_mounted_below_a_bind(
    machine: Engine, tree: Path, recursive: str, read_only: bool, seen: str, refused: set[str]
) -> None:
    mount = bind(str(tree), "/tree", read_only=read_only, recursive=recursive)
    script = "cat /tree/below/file; for d in /tree /tree/below; do touch $d/new || echo no; done"
    found = machine.run(script, mounts=(mount,))
    assert found.lines == ([seen] if seen else []) + ["no"] * len(refused)
    assert found.errors.count("Read-only file system") == len(refused)


def test_a_tmpfs_has_its_owner_its_limits_and_what_it_allows(machine: Engine) -> None:
    given = MountPoint(
        "tmpfs", "", "/fast", tmpfs_mode=0o700, tmpfs_options=("exec", "gid=7", "nr_inodes=4", "uid=1000")
    )
    script = (
        "stat -c '%u:%g %a' /fast; grep -o '/fast tmpfs [a-z,]*' /proc/mounts;"
        " for n in 1 2 3 4; do touch /fast/$n; done"
    )
    found = machine.run(script, mounts=(given,))
    assert found.lines[0] == "1000:7 700"
    assert "noexec" not in found.lines[1] and "nosuid,nodev" in found.lines[1]
    assert "No space left" in found.errors


def test_options_as_config_json_has_them() -> None:
    def of(**more: object) -> list[str]:
        return bind_options(MountPoint("bind", "/a", "/b", **more))  # type: ignore[arg-type]

    assert of() == ["rbind", "rprivate", "rw"]
    assert of(read_only=True) == ["rbind", "rprivate", "rro"]
    assert of(read_only=True, recursive="writable") == ["rbind", "rprivate", "ro"]
    assert of(read_only=True, recursive="disabled") == ["bind", "rprivate", "ro"]
    assert of(propagation="rslave") == ["rbind", "rslave", "rw"]
    assert bind_options(MountPoint("image", "i", "/b")) == ["rbind", "rprivate", "rro"]
    assert tmpfs_options(MountPoint("tmpfs", "", "/b", True, tmpfs_options=("dev", "uid=1"))) == [
        "nosuid",
        "noexec",
        "ro",
        "mode=1777",
        "uid=1",
    ]


# ---------------------------------------------------------------- SELinux


def test_a_suffix_for_selinux_is_nothing_where_there_is_none(machine: Engine, tmp_path: Path) -> None:
    if selinux.enabled():
        pytest.skip("this machine has SELinux")
    (tmp_path / "file").touch()
    volume(machine)
    mounts = (
        bind(str(tmp_path), "/mnt", selinux="z"),
        MountPoint("volume", "t/data", "/data", selinux="Z"),
    )
    assert machine.run("ls /mnt; touch /data/x", mounts=mounts).lines == ["file"]


def test_labels_are_given_to_all_below_but_not_to_what_a_link_leads_to(tmp_path: Path) -> None:
    """The attribute can be set without SELinux, too."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.touch()
    (inside / "deep").mkdir(parents=True)
    (inside / "deep/file").touch()
    os.symlink(outside, inside / "link")
    label = selinux.label("t/web")
    selinux.relabel(str(inside), label)
    for path in (inside, inside / "deep", inside / "deep/file"):
        assert os.getxattr(path, "security.selinux") == label.encode() + b"\0"
    with pytest.raises(OSError) as caught:
        os.getxattr(outside, "security.selinux")
    assert caught.value.errno == errno.ENODATA
    with pytest.raises(OSError, match="a directory of the system"):
        selinux.relabel("/etc", label)


def test_a_private_label_has_two_categories_of_its_own() -> None:
    assert selinux.label("") == "system_u:object_r:container_file_t:s0"
    found = {selinux.label(f"t/{n}") for n in range(50)}
    assert len(found) == 50
    for text in found:
        low, high = (int(word[1:]) for word in text.rpartition(":")[2].split(","))
        assert 0 <= low < high < 1024
