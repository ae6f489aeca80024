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
    "load": (
        "images.load",
        "bring in the images of a docker-archive or OCI layout",
        "stead image load -i web.tar",
    ),
    "save": ("images.save", "write images to a file or directory", "stead image save -o web.tar web:1"),
    "tag": ("images.tag", "give an image another name", "stead image tag web:1 registry.example/web:1"),
    "ls": ("images.ls", "list images", "stead image ls --filter label=team=web"),
    "inspect": ("images.inspect", "show all that is known of images", "stead image inspect web:1"),
    "history": ("images.history", "show what an image was made by", "stead image history web:1"),
    "verify": ("images.verify", "look for what rotted in the store", "stead image verify"),
    "prune": ("images.prune", "remove images that nothing uses", "stead image prune --all"),
    "rm": ("images.rm", "take names away, and images with their last name", "stead image rm web:1"),
}
