"""Effects: what a restore or a drill that was killed has left: trees that nobody will use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from runtime.backups.holds import DRILLING, Holds
from runtime.faults import Fault, faults
from runtime.linux import trees
from runtime.paths import Paths
from runtime.volumes.records import Volume

#: Beside a volume's data: what is to become them.
RESTORING = "_restore"
#: In a volume that is a file system of its own: the same.
INSIDE = ".stead_restore"
#: Beside a volume's data: some of them are of before a restore, and some are not.
CUT_OFF = "_cut_off"


def drill_place(paths: Paths, volume: str) -> Path:
    """Where a backup of the volume is restored to be looked at."""
    return paths.root / "drills" / volume.replace("/", "@")


def drill_hold(volume: str) -> str:
    """What is held meanwhile."""
    return volume + DRILLING


def is_cut_off(volume: Volume) -> bool:
    """Whether a restore was killed while it took the data's place."""
    return (volume.home / CUT_OFF).exists()


def clear(volume: Volume) -> None:
    """Before a container gets a file system of its own: what a killed restore unpacked goes. Fault
    volume-refused where the data are neither those of before nor those of the backup."""
    if is_cut_off(volume):
        cause, hint = "a restore of it was cut off in the middle", "restore it again, or remove it"
        raise Fault("volume-refused", "mount volume", volume.name, cause, hint)
    trees.discard(volume.path / INSIDE)


def found(paths: Paths, volumes: Sequence[Volume], holds: Holds) -> set[str]:
    """What `sweep` would remove."""
    left = list(_left(paths, volumes))
    held = holds.held() if left else {}
    return {what for what, hold, _ in left if hold not in held}


def sweep(paths: Paths, volumes: Sequence[Volume], holds: Holds) -> list[str]:
    removed = []
    for what, hold, path in _left(paths, volumes):
        try:
            with holds.hold(hold, "being swept"), faults("sweep", what):
                trees.remove(path, ignore_errors=True)
        except Fault as fault:
            if fault.code != "volume-in-use":
                raise
            continue
        removed.append(what)
    return removed


def _left(paths: Paths, volumes: Sequence[Volume]) -> Iterator[tuple[str, str, Path]]:
    """(what it is, who has a hold while it is in use, where it lies)"""
    for volume in volumes:
        path = volume.home / RESTORING
        if os.path.lexists(path):
            yield f"restore of volume {volume.name}", volume.name, path
    drills = paths.root / "drills"
    for name in os.listdir(drills) if drills.is_dir() else ():
        volume_name = name.replace("@", "/")
        yield f"drill of volume {volume_name}", drill_hold(volume_name), drills / name
