"""Values: `stead container`: commands about containers, a module each, mostly in agent/cli/containers."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "commit": (
        "containers.commit",
        "make an image of a container",
        "stead container commit -c 'CMD [\"web\"]' shop/web web:2",
    ),
    "ls": ("ps", "list containers", "stead container ls -a"),
    "inspect": ("containers.inspect", "show all that is known of containers", "stead container inspect web"),
    "logs": ("logs", "show a container's output", "stead container logs -f --since 10m web"),
    "pause": (
        "containers.pause",
        "stop the processes of containers where they are",
        "stead container pause web",
    ),
    "unpause": ("containers.unpause", "let paused containers go on", "stead container unpause web"),
    "port": ("containers.port", "say where published ports are", "stead container port web 80"),
    "stats": ("containers.stats", "show what containers use", "stead container stats --no-stream"),
    "top": ("containers.top", "list the processes of a container", "stead container top web -o pid,args"),
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
