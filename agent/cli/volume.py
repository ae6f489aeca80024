"""Values: `stead volume`: the commands about volumes, a module each in agent/cli/volumes."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "backup": (
        "volumes.backup",
        "write a volume's data to a file",
        "stead volume backup shop/data -o /backups/",
    ),
    "restore": (
        "volumes.restore",
        "fill a volume with what a backup has",
        "stead volume restore shop/data /backups/shop-data-20260131T030000.000Z.tar.zst",
    ),
}
