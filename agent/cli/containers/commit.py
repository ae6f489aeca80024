"""Effects: `stead container commit`."""

from __future__ import annotations

from agent.cli.containers import writings
from agent.cli.images import store
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--author", default="", metavar="TEXT", help="Jane <jane@example.org>")
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="for the image's history")
    text = "an instruction of a Dockerfile, as CMD, ENV, EXPOSE; may be repeated"
    parser.add_argument("-c", "--change", action="append", default=[], metavar="INSTRUCTION", help=text)
    text = "stop its processes while it is read: true (default) or false"
    parser.add_argument(
        "--pause", nargs="?", default="true", const="true", choices=("true", "false"), help=text
    )
    parser.add_argument("-p", dest="pause", action="store_const", const="true", help="--pause=true")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("image", nargs="?", default="", metavar="REPOSITORY[:TAG]")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from datetime import UTC, datetime

    from runtime.build.problems import DockerfileError
    from runtime.commit import CommitRequest

    request = CommitRequest(
        created=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        name=store.reference(options.image) if options.image else None,
        author=options.author,
        message=options.message,
        changes=tuple(options.change),
        pause=options.pause == "true",
    )
    try:
        with writings.of(options.name, paths) as (found, record):
            print(found.commit(record, request))
    except DockerfileError as error:
        raise Problem(f"cannot commit {options.name}: {error}", 2) from error
    store.wake_agent(paths)
    return 0
