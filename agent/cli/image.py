"""Values: `stead image`: the commands about images, a module each in agent/cli/images."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "pull": ("images.pull", "bring an image from a registry", "stead image pull registry.example/web:1"),
    "push": (
        "images.push",
        "bring an image to the registry of its name",
        "stead image push registry.example/web:1",
    ),
    "import": (
        "images.take",
        "make an image of a file system or an archive",
        "stead image import rootfs/ web:1",
    ),
    "ls": ("images.ls", "list images", "stead image ls"),
    "rm": ("images.rm", "take names away, and images with their last name", "stead image rm web:1"),
}
