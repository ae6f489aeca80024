"""Effects: `stead image import`."""

from __future__ import annotations

from agent.cli.images import store
from agent.cli.images.load import input_path
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.images.archives import Described
    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    text = "an instruction of a Dockerfile, as CMD, ENV, EXPOSE; may be repeated"
    parser.add_argument("-c", "--change", action="append", default=[], metavar="INSTRUCTION", help=text)
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="for the image's history")
    text = "what the file system is for, or which image of an archive is meant (default: this machine's)"
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help=text)
    text = "root filesystem, OCI layout or docker-archive; also a tar; - is standard input"
    parser.add_argument("path", metavar="PATH", help=text)
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="without it the image has none")


def run(options: argparse.Namespace, paths: Paths) -> int:
    path, described = input_path(options.path, "import"), _described(options)
    name = store.reference(options.name) if options.name else None
    with store.local(paths) as images:
        print(images.import_path(path, name, platform=options.platform, described=described))
    store.wake_agent(paths)
    return 0


def _described(options: argparse.Namespace) -> Described | None:
    """What is said of a root filesystem; None: nothing."""
    if not options.change and not options.message:
        return None
    from runtime.build.change import changed, config_object
    from runtime.build.config import ImageConfig
    from runtime.build.problems import DockerfileError
    from runtime.images.archives import Described

    try:
        config = config_object(changed(ImageConfig(), options.change))
    except DockerfileError as error:
        raise Problem(f"cannot import {options.path}: {error}", 2) from error
    return Described(config, options.message or Described().comment)
