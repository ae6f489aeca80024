"""Values: `stead container`: commands about what containers wrote, a module each in agent/cli/containers."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "commit": (
        "containers.commit",
        "make an image of a container",
        "stead container commit -c 'CMD [\"web\"]' shop/web web:2",
    ),
    "diff": (
        "containers.diff",
        "list what a container changed of its image",
        "stead container diff shop/web",
    ),
    "export": (
        "containers.export",
        "write a container's file system as a tar",
        "stead container export -o web.tar shop/web",
    ),
}
