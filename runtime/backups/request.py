"""Values: what the agent asks of backups, and what it is told. Times are seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass

from specs.values import EVERYTHING, Keep


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """`into` is a directory, which is made where it is missing. `quiesce` is freeze, stop or none."""

    volume: str
    into: str
    quiesce: str = "freeze"
    keep: Keep = EVERYTHING
    revision: str = ""  # of the volume's source


@dataclass(frozen=True, slots=True)
class BackupResult:
    """`at` is when it was begun, `bytes` the size of the file, `size` that of the volume's files; `removed`
    are older backups that went."""

    path: str
    at: float
    seconds: float
    bytes: int
    size: int
    entries: int
    changed: int = 0
    removed: int = 0


@dataclass(frozen=True, slots=True)
class DrillResult:
    """A backup that was restored, compared and found to be what it says. `at` is when that was made, `begun`
    when the drill was."""

    path: str
    at: float
    begun: float
    seconds: float
    entries: int
