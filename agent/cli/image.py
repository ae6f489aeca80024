"""Effects: `stead image`: the commands about images, a module each in agent/cli/images."""

from __future__ import annotations

from agent.cli import groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

VERBS: groups.Verbs = {
    "pull": ("images.pull", "bring an image from a registry", "stead image pull registry.example/web:1"),
    "import": (
        "images.take",
        "make an image of a file system or an archive",
        "stead image import rootfs/ web:1",
    ),
    "ls": ("images.ls", "list images", "stead image ls"),
    "rm": ("images.rm", "take names away, and images with their last name", "stead image rm web:1"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    groups.add_verbs(parser, VERBS)
