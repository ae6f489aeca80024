"""Values: `stead container`: commands about containers, a module each, mostly in agent/cli/containers."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "commit": (
        "containers.commit",
        "make an image of a container",
        "stead container commit -c 'CMD [\"web\"]' shop/web web:2",
    ),
    "run": (
        "containers.run",
        "make a container that no source declares, and start it",
        "stead container run --rm -it alpine sh",
    ),
    "create": (
        "containers.create",
        "make a container that no source declares",
        "stead container create --name web -p 8080:80 web:1",
    ),
    "start": (
        "containers.start",
        "start containers; what was stopped by hand is handed back",
        "stead container start web",
    ),
    "stop": (
        "containers.stop",
        "stop containers; what a source declares stays stopped",
        "stead container stop --reason 'disk is full' web",
    ),
    "restart": ("containers.restart", "stop and start containers", "stead container restart -t 3 web"),
    "kill": ("containers.kill", "send a signal to containers", "stead container kill -s HUP web"),
    "wait": (
        "containers.wait",
        "wait until containers have ended, and print their exit codes",
        "stead container wait web",
    ),
    "rename": ("containers.rename", "give a container another name", "stead container rename web old-web"),
    "rm": ("containers.rm", "remove containers that no source declares", "stead container rm -f web"),
    "attach": ("containers.attach", "use the terminal of a running container", "stead container attach web"),
    "exec": ("containers.exec", "run a program in a running container", "stead container exec -it web sh"),
    "ls": ("ps", "list containers", "stead container ls -a"),
    "inspect": ("containers.inspect", "show all that is known of containers", "stead container inspect web"),
    "logs": ("logs", "show a container's output", "stead container logs -f --since 10m web"),
    "cp": ("containers.cp", "copy files out of a container or into it", "stead container cp conf web:/etc"),
    "pause": (
        "containers.pause",
        "stop the processes of containers where they are",
        "stead container pause web",
    ),
    "prune": ("containers.prune", "remove stopped containers made by hand", "stead container prune -f"),
    "update": ("containers.update", "change limits of containers", "stead container update -m 1g web"),
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
