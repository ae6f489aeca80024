"""Values: `stead volume`: the commands about volumes, a module each in agent/cli/volumes."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "create": ("volumes.create", "make a volume by hand", "stead volume create --label team=web pictures"),
    "ls": ("volumes.ls", "list volumes", "stead volume ls --filter dangling=true"),
    "inspect": ("volumes.inspect", "show all that is known of volumes", "stead volume inspect shop/data"),
    "rm": ("volumes.rm", "remove volumes with their data", "stead volume rm shop/data"),
    "prune": ("volumes.prune", "remove volumes that nothing uses", "stead volume prune"),
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
