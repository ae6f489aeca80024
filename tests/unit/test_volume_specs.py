"""What specs say of volumes and mounts, and what their options mean together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from specs.desired import DesiredVolume
from specs.fingerprint import fingerprints, volume_fingerprint
from specs.values import MountPoint
from specs.volumes import Backing, OptionMistake, backing
from tests.spec_text import container, desired_of

AROUND = (
    '[volume.v]\n[volume.named]\nname = "pictures"\n[volume.theirs]\nexternal = true\n'
    '[image.w]\nfrom = "words:1"'
)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ('"/data"', MountPoint("volume", "", "/data")),
        ('{ type = "volume", target = "/d" }', MountPoint("volume", "", "/d")),
        (
            '{ type = "volume", target = "/d", volume = { nocopy = true, labels = { b = "2", a = "1" } } }',
            MountPoint("volume", "", "/d", nocopy=True, labels=(("a", "1"), ("b", "2"))),
        ),
        ('"v:/d:ro,Z"', MountPoint("volume", "p/v", "/d", True, selinux="Z")),
        ('"named:/d"', MountPoint("volume", "pictures", "/d")),
        ('"theirs:/d"', MountPoint("volume", "theirs", "/d")),
        (
            '{ type = "volume", source = "v", target = "/d", volume = { subpath = "a//b/" } }',
            MountPoint("volume", "p/v", "/d", subpath="a/b"),
        ),
        (
            '{ type = "bind", source = "/a", target = "/d", read_only = true,'
            ' bind = { recursive = "readonly", selinux = "z" } }',
            MountPoint("bind", "/a", "/d", True, recursive="readonly", selinux="z"),
        ),
        (
            '{ type = "bind", source = "/a", target = "/d", bind = { recursive = "enabled" } }',
            MountPoint("bind", "/a", "/d"),
        ),
        (
            '{ type = "tmpfs", target = "/d", tmpfs = { uid = 1000, gid = 7 } }',
            MountPoint("tmpfs", "", "/d", tmpfs_options=("gid=7", "uid=1000")),
        ),
        (
            '{ type = "image", source = "w", target = "/d", image = { subpath = "en" } }',
            MountPoint("image", "docker.io/library/words:1", "/d", True, subpath="en"),
        ),
        (
            '{ type = "image", source = "other:2", target = "/d" }',
            MountPoint("image", "docker.io/library/other:2", "/d", True),
        ),
    ],
)
def test_a_mount_means(item: str, expected: MountPoint) -> None:
    assert container(f"volumes = [{item}]", around=AROUND).mounts == (expected,)


def test_tmpfs_takes_what_dockers_takes() -> None:
    (mount,) = container('tmpfs = "/t:uid=5,gid=6,nr_inodes=100,exec,suid,noexec,size=1m"').mounts
    assert mount.tmpfs_options == ("gid=6", "nr_inodes=100", "suid", "uid=5") and mount.tmpfs_size == 1 << 20


def test_an_image_that_is_mounted_is_wanted() -> None:
    text = '[container.c]\nimage = "a"\nvolumes = [{ type = "image", source = "words:1", target = "/w" }]\n'
    assert sorted(desired_of({"c.toml": text}).images) == [
        "docker.io/library/a:latest",
        "docker.io/library/words:1",
    ]


def test_volumes_have_names_options_and_somebody_who_makes_them() -> None:
    text = (
        '[volume.v]\ndriver = "local"\ndriver_opts = { type = "tmpfs", o = "size=1m" }\nkeep = true\n'
        '[volume.n]\nname = "pictures"\n[volume.x]\nexternal = true\n'
        '[volume.y]\nexternal = true\nname = "q/y"\n'
    )
    found = desired_of({"c.toml": text})
    assert sorted(found.volumes) == ["default/v", "pictures"] and sorted(found.externals) == ["q/y", "x"]
    volume = found.volumes["default/v"]
    assert (dict(volume.options), volume.keep) == ({"type": "tmpfs", "o": "size=1m"}, True)


def test_each_part_of_a_mount_and_of_a_volume_counts_and_what_is_plain_is_as_it_was() -> None:
    plain = container('volumes = ["v:/d"]', around="[volume.v]")
    assert '"volumes./d":"volume:p/v"' in plain.facets
    assert '"volumes./d":"volume"' in container('volumes = ["/d"]').facets
    changes: list[dict[str, Any]] = [
        {},
        {"subpath": "a"},
        {"recursive": "disabled"},
        {"selinux": "z"},
        {"tmpfs_options": ("uid=1",)},
        {"read_only": True},
        {"nocopy": True},
    ]
    mount = plain.mounts[0]
    prints = {
        fingerprints(replace(plain, mounts=(replace(mount, **change),)), image="a")[0] for change in changes
    }
    assert len(prints) == len(changes)
    volumes = [
        DesiredVolume("p/v", **change)
        for change in ({}, {"labels": {"a": "b"}}, {"options": {"size": "1m"}}, {"keep": True})
    ]
    assert len({volume_fingerprint(volume) for volume in volumes}) == 4
    assert volume_fingerprint(volumes[0]) == "44136fa355b3678a1146ad16f7e8649e", "as the first release has it"


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Backing()),
        ({"size": "1g"}, Backing(size=1 << 30)),
        ({"loop": "ext4", "size": "4m", "o": "noatime"}, Backing("loop", "ext4", "", ("noatime",), 4 << 20)),
        (
            {"type": "tmpfs", "o": "size=1m,,mode=700"},
            Backing("mount", "tmpfs", "tmpfs", ("size=1m", "mode=700")),
        ),
        ({"o": "bind", "device": "/a"}, Backing("mount", "none", "/a", ("bind",))),
        ({"type": "ext4", "device": "/dev/sdb1"}, Backing("mount", "ext4", "/dev/sdb1")),
        (
            {"type": "nfs4", "o": "addr=h,ro", "device": ":/srv"},
            Backing("mount", "nfs4", "h:/srv", ("ro",)),
        ),
        ({"type": "nfs", "device": "h:/srv"}, Backing("mount", "nfs", "h:/srv")),
    ],
)
def test_options_mean(options: dict[str, str], expected: Backing) -> None:
    assert backing(options) == expected


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"what": "1"}, "what"),
        ({"size": "0"}, "size"),
        ({"loop": "ext4"}, "loop"),
        ({"loop": "ext4", "size": "1k"}, "size"),
        ({"loop": "ext4", "size": "1g", "device": "/a"}, "device"),
        ({"type": "ext4"}, ""),
        ({"device": "/a"}, ""),
        ({"type": "ext4", "device": "-o"}, "device"),
        ({"type": "none", "o": "rbind", "device": "a"}, "device"),
        ({"type": "nfs", "device": ":/srv"}, "device"),
    ],
)
def test_options_that_contradict_each_other_say_which(options: dict[str, str], key: str) -> None:
    with pytest.raises(OptionMistake) as caught:
        backing(options)
    assert caught.value.key == key


def test_what_lies_in_memory_does_not_last() -> None:
    assert not backing({"type": "tmpfs"}).lasting and backing({"loop": "xfs", "size": "1g"}).lasting
    assert backing({"type": "tmpfs"}).mounted and not backing({"size": "1g"}).mounted
