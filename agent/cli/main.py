"""Effects: the command `stead`. Arguments are read here; each command lives in a module that is imported
when called.

Exit codes: 0 well, 1 the command failed, 2 wrong use (and, of `plan`, changes to do); `exec` gives its
program's.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from runtime.faults import Fault
from runtime.paths import DEFAULT_ROOT, DEFAULT_RUN, Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Parser = argparse.ArgumentParser

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
    "ps": ("ps", "list containers", "stead ps"),
    "logs": ("logs", "show a container's output", "stead logs -f --since 10m web"),
    "exec": ("exec", "run a program in a running container", "stead exec -it web sh"),
    "explain": ("explain", "say what was done to a thing, and why", "stead explain web"),
    "history": ("history", "list what was done, newest last", "stead history"),
    "inspect": ("inspect", "show all that is known of one thing", "stead inspect container web"),
    "image": ("image", "bring, list, make and remove images", "stead image pull registry.example/web:1"),
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
        "compare, export and commit what a container wrote",
        "stead container diff shop/web",
    ),
    "system": ("system", "show what this machine keeps", "stead system df"),
    "halt": ("halt", "end all containers until the next agent starts", "systemctl stop stead-containers"),
    "schema": ("schema", "write the JSON Schema of spec files", "stead schema > stead.schema.json"),
}


class Problem(Exception):
    """An end of the command with one line for people."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(words).parse_args(words)
    try:
        run: Callable[[argparse.Namespace, Paths], int] = options.run_command
        return run(options, Paths(Path(options.root).absolute(), Path(options.run).absolute()))
    except Problem as problem:
        print(f"stead: {problem}", file=sys.stderr)
        return problem.code
    except Fault as fault:
        print(f"stead: {fault}", file=sys.stderr)
        return 1
    except PermissionError as error:
        hint = "; run it as root" if os.geteuid() else ""
        print(f"stead: cannot open {error.filename}: permission denied{hint}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130


class _Version(argparse.Action):
    """The metadata of the installation are read only when asked for."""

    def __call__(self, *_: object) -> None:
        from importlib.metadata import version

        print(f"stead {version('stead')}")
        raise SystemExit(0)


def need_root() -> None:
    if os.geteuid():
        raise Problem("this needs root; run it with sudo")


def _parser(words: Sequence[str]) -> Parser:
    """Only the command that is named is imported and knows its options; --help lists all of them."""
    parser = argparse.ArgumentParser(
        prog="stead",
        description="Keep this machine in the state that a git repository or a directory declares.",
        epilog="`stead COMMAND --help` shows its options and an example.",
    )
    root, run = os.environ.get("STEAD_ROOT", DEFAULT_ROOT), os.environ.get("STEAD_RUN", DEFAULT_RUN)
    parser.add_argument("--root", default=root, metavar="DIR", help="lasting state (STEAD_ROOT)")
    parser.add_argument("--run", default=run, metavar="DIR", help="state until the next boot (STEAD_RUN)")
    parser.add_argument("--version", action=_Version, nargs=0, help="say which version this is")
    _add_commands(parser, COMMANDS, words)
    return parser


def _add_commands(parser: Parser, commands: Commands, words: Sequence[str]) -> None:
    """A module has VERBS, which are commands below it, or add_options(parser) and run(options, paths)."""
    # with `prog`, since argparse would format a usage to know it, which imports much
    verbs = parser.add_subparsers(metavar="COMMAND", required=True, prog=parser.prog)
    for verb, (module, text, example) in commands.items():
        command = verbs.add_parser(
            verb, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"example: {example}"
        )
        if verb not in words:
            continue
        loaded = importlib.import_module(f"agent.cli.{module}")
        if hasattr(loaded, "VERBS"):
            _add_commands(command, loaded.VERBS, words)
        else:
            loaded.add_options(command)
            command.set_defaults(run_command=loaded.run)
