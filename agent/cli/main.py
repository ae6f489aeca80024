"""Effects: the command `stead`. Arguments are read here; each command lives in a module that is imported
when called.

Exit codes: 0 well, 1 the command failed, 2 wrong use (and, of `plan`, changes to do); `exec` gives its
program's.
"""

from __future__ import annotations

import os
import sys

from runtime.roots import ROOT, RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

#: verb -> (module, one line, example)
Commands = dict[str, tuple[str, str, str]]
COMMANDS: Commands = {
    "agent": ("agent", "run the agent in the foreground", "stead agent --settings /etc/stead/stead.toml"),
    "validate": ("validate", "list every problem of a directory of specs", "stead validate specs/"),
    "plan": ("plan", "show what would be done and why", "stead plan specs/"),
    "apply": ("apply", "converge once, without an agent", "stead apply specs/"),
    "lock": ("lock", "write down which digest each tag of the specs stands for", "stead lock specs/"),
    "down": ("down", "remove what a directory declared", "stead down specs/ --volumes"),
    "status": ("status", "say what the agent has in force, does, and cannot do", "stead status"),
    "rollback": (
        "rollouts.rollback",
        "go back to an older version of a container, or revision of a source",
        "stead rollback web --reason 'it eats memory'",
    ),
    "release": (
        "rollouts.release",
        "let specs hold again, after a rollback by itself or by hand",
        "stead release web",
    ),
    "suspend": (
        "rollouts.suspend",
        "leave a container, a project or a source as it is",
        "stead suspend shop --reason 'the fair' --for 2h",
    ),
    "resume": ("rollouts.resume", "go on with what was suspended by hand", "stead resume shop"),
    "approve": (
        "rollouts.approve",
        "put a revision in force that waits because it removes much",
        "stead approve 4be1c9a",
    ),
    "ps": ("ps", "list containers", "stead ps"),
    "logs": ("logs", "show a container's output", "stead logs -f --since 10m web"),
    "commit": ("containers.commit", "make an image of a container", "stead commit shop/web web:2"),
    "export": (
        "containers.export",
        "write a container's file system as a tar",
        "stead export -o web.tar web",
    ),
    "cp": ("containers.cp", "copy files between this machine and a container", "stead cp web:/etc/nginx ."),
    "events": ("events", "show what happened and happens", "stead events --since 1h --filter event=die"),
    "pause": ("containers.pause", "stop the processes of containers where they are", "stead pause web"),
    "update": ("containers.update", "change limits of containers", "stead update -m 1g --cpus 2 web"),
    "unpause": ("containers.unpause", "let paused containers go on", "stead unpause web"),
    "port": ("containers.port", "say where a container's published ports are", "stead port web 80"),
    "stats": ("containers.stats", "show what containers use of this machine", "stead stats --no-stream"),
    "top": ("containers.top", "list the processes of a container", "stead top web -o pid,args"),
    "diff": ("containers.diff", "list what a container changed of its image", "stead diff shop/web"),
    "run": (
        "containers.run",
        "make a container that no source declares, and start it",
        "stead run --rm -it alpine sh",
    ),
    "create": (
        "containers.create",
        "make a container that no source declares",
        "stead create --name web -p 8080:80 web:1",
    ),
    "start": (
        "containers.start",
        "start containers; what was stopped by hand is handed back",
        "stead start web",
    ),
    "stop": (
        "containers.stop",
        "stop containers; what a source declares stays stopped",
        "stead stop --reason 'disk is full' web",
    ),
    "restart": ("containers.restart", "stop and start containers", "stead restart -t 3 web"),
    "kill": ("containers.kill", "send a signal to containers", "stead kill -s HUP web"),
    "wait": (
        "containers.wait",
        "wait until containers have ended, and print their exit codes",
        "stead wait web",
    ),
    "rename": ("containers.rename", "give a container another name", "stead rename web old-web"),
    "rm": ("containers.rm", "remove containers that no source declares", "stead rm -f web"),
    "attach": ("containers.attach", "use the terminal of a running container", "stead attach web"),
    "exec": ("containers.exec", "run a program in a running container", "stead exec -it web sh"),
    "explain": ("explain", "say what was done to a thing, and why", "stead explain web"),
    "history": ("history", "list what was done, newest last", "stead history"),
    "inspect": ("inspect", "show all that is known of one thing", "stead inspect container web"),
    "image": ("image", "bring, list, make and remove images", "stead image pull registry.example/web:1"),
    "images": ("images.ls", "list images", "stead images --filter label=team=web"),
    "pull": ("images.pull", "bring images from registries", "stead pull registry.example/web:1"),
    "push": (
        "images.push",
        "bring an image to the registry of its name",
        "stead push registry.example/web:1",
    ),
    "tag": ("images.tag", "give an image another name", "stead tag web:1 registry.example/web:1"),
    "rmi": ("images.rm", "take names away, and images with their last name", "stead rmi web:1"),
    "load": ("images.load", "bring in the images of a docker-archive or OCI layout", "stead load -i web.tar"),
    "save": ("images.save", "write images to a file or directory", "stead save -o web.tar web:1"),
    "import": (
        "images.take",
        "make an image of a file system or an archive",
        "stead import rootfs/ web:1",
    ),
    "build": ("build", "build an image from a Dockerfile", "stead build -t web:1 ."),
    "manifest": (
        "manifest",
        "show indexes (manifest lists), and put them together",
        "stead manifest inspect alpine:3",
    ),
    "builder": ("builder", "look at the build cache, and make it smaller", "stead builder prune"),
    "login": ("login", "keep credentials for a registry", "stead login -u me registry.example"),
    "logout": ("logout", "forget the credentials for a registry", "stead logout registry.example"),
    "container": (
        "container",
        "look at containers, and at what they wrote",
        "stead container diff shop/web",
    ),
    "job": ("job", "list jobs and their runs, and have them run", "stead job history backup"),
    "network": (
        "network",
        "list, show, make and remove networks, and connect containers to them",
        "stead network ls",
    ),
    "volume": ("volume", "make, list, remove and back up volumes", "stead volume ls"),
    "version": ("version", "say which releases this command and the agent are", "stead version"),
    "info": ("info", "say what this machine has for containers, and how many there are", "stead info"),
    "system": ("system", "show what this machine keeps", "stead system df"),
    "oci": (
        "oci",
        "run one container of an OCI bundle, with runc's command line and without an agent",
        "stead oci run --bundle DIR NAME",
    ),
    "halt": ("halt", "end all containers until the next agent starts", "systemctl stop stead-containers"),
    "schema": ("schema", "write the JSON Schema of spec files", "stead schema > stead.schema.json"),
}


class Problem(Exception):
    """An end of the command with one line for people."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def entry() -> NoReturn:
    """The whole process: `main`, then its end. An interpreter that is taken down piece by piece takes 10 ms
    for what the kernel does anyway: that is left out, unless somebody is to be waited for or told (threading,
    atexit)."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:  # closed by who started us
        from runtime.linux import standard

        standard.fill()
    if not all(map(os.get_blocking, range(3))):
        from runtime.linux import standard

        standard.wait()
    try:
        code = main()
    except SystemExit as end:  # of argparse
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    code = _flushed(code)
    import atexit  # not above: a glance at a build has no use for it

    threading = sys.modules.get("threading")
    if (threading is None or threading.active_count() == 1) and not atexit._ncallbacks():
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _flushed(code: int) -> int:
    """The code to end with: 1 where output was not taken. Nobody who reads it is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
    except OSError as error:
        return max(code, _refused(error))
    return code


def _is_full(error: OSError) -> bool:
    """Whether that is about output."""
    import errno  # not above, as atexit

    return error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _is_of_disk(error: OSError) -> bool:
    """Whether a file system takes nothing, which no release of ours could help."""
    import errno

    full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    return error.filename is not None and error.errno in full


def _refused(error: OSError) -> int:
    print(f"stead: cannot write output: {error.strerror}", file=sys.stderr)
    _silence()
    return 1


def unreadable_input() -> str:
    """What is to be said of a standard input that gives nothing, or nothing."""
    from runtime.linux import standard

    why = standard.unreadable()
    return why and f"cannot read standard input: {why}"


def _silence() -> None:
    """What is printed from now on, or was kept to be, is for nobody."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["oci"]:
            from runtime.oci.main import main as oci

            return oci(words[1:])
        if (done := _at_a_glance(words)) is not None:
            return done
        return _run(words)
    except Problem as problem:
        print(f"stead: {problem}", file=sys.stderr)
        return problem.code
    except PermissionError as error:
        hint = "; run it as root" if os.geteuid() else ""
        print(f"stead: cannot open {error.filename}: permission denied{hint}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        _silence()
        return 0
    except OSError as error:
        if _is_full(error):
            return _refused(error)
        if not _is_of_disk(error):
            if not (why := unreadable_input()):
                raise
            print(f"stead: {why}", file=sys.stderr)
            return 1
        print(f"stead: cannot write {error.filename}: {str(error.strerror).lower()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    from agent.cli import parsing
    from runtime.faults import Fault

    try:
        return parsing.call(words)
    except Fault as fault:
        print(f"stead: {fault}", file=sys.stderr)
        return 1


def _at_a_glance(words: Sequence[str]) -> int | None:
    """The exit code of a `build` that came to its image before, of which nothing has changed."""
    root, run, rest = roots(words)
    if not rest or rest[0] != "build":
        return None
    from agent.cli.builds import again

    return again.at_a_glance(root, run, rest)


def roots(words: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    """--root and --run as they hold, and the words after them; none where they are spelled otherwise."""
    found = {"--root": os.environ.get("STEAD_ROOT", ROOT), "--run": os.environ.get("STEAD_RUN", RUN)}
    at = 0
    while at < len(words) and words[at].startswith("-"):
        name, equals, value = words[at].partition("=")
        if name not in found or (not equals and at + 1 == len(words)):
            return ROOT, RUN, ()
        found[name] = value if equals else words[at + 1]
        at += 1 if equals else 2
    return found["--root"], found["--run"], words[at:]


def need_root() -> None:
    if os.geteuid():
        raise Problem("this needs root; run it with sudo")
