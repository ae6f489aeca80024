"""Effects: `stead image pull | import | ls | rm`."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from agent.cli import specs, table
from agent.cli.main import Problem, need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.local import LocalRuntime
    from runtime.paths import Paths
    from specs.values import ImageRef


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settings", metavar="FILE", help="settings (default: /etc/stead/stead.toml if there)"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="pull | import | ls | rm", required=True)
    pull = verbs.add_parser("pull", epilog="example: stead image pull registry.example/web:1")
    pull.add_argument("name", metavar="NAME")
    pull.add_argument("--platform", default="", metavar="OS/ARCH")
    take = verbs.add_parser("import", epilog="example: stead image import rootfs/ hello:1")
    take.add_argument(
        "path", metavar="PATH", help="root filesystem, OCI layout or docker-archive; also a tar"
    )
    take.add_argument("name", metavar="NAME")
    listing = verbs.add_parser("ls", epilog="example: stead image ls --json")
    listing.add_argument("--json", action="store_true")
    remove = verbs.add_parser("rm", epilog="example: stead image rm hello:1")
    remove.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from contextlib import closing

    from agent.machine import open_runtime

    need_root()
    with closing(open_runtime(paths, specs.settings_of(options))) as runtime:
        code = _VERBS[options.verb](options, runtime)
    if options.verb != "ls":
        _wake_agent(paths)
    return code


def _wake_agent(paths: Paths) -> None:
    """A name means another image now, or an image is there that was waited for: let the agent look, if one
    runs.
    """
    try:
        directory = os.open(paths.run, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(b"{}", f"/proc/self/fd/{directory}/{paths.events_socket.name}")
        except OSError:
            pass
        finally:
            os.close(directory)


def _pull(options: argparse.Namespace, runtime: LocalRuntime) -> int:
    print(runtime.pull_image(_reference(options.name), platform=options.platform))
    return 0


def _import(options: argparse.Namespace, runtime: LocalRuntime) -> int:
    path = Path(options.path).absolute()
    if not path.exists():
        raise Problem(f"cannot import {options.path}: no such file or directory")
    print(runtime.import_image(path, _reference(options.name)))
    return 0


def _list(options: argparse.Namespace, runtime: LocalRuntime) -> int:
    from specs.values import ImageRef

    images = runtime.images.list()
    if options.json:
        print(json.dumps([{"id": i.id, "names": i.names, "size": i.size} for i in images], indent=1))
        return 0
    rows = [
        (ImageRef.parse(name).familiar, image.id.removeprefix("sha256:")[:12], table.size(image.size))
        for image in images
        for name in image.names
    ]
    print(table.columns(("NAME", "ID", "SIZE"), sorted(rows)))
    return 0


def _remove(options: argparse.Namespace, runtime: LocalRuntime) -> int:
    found = runtime.images.get(options.name)
    name = options.name if found is not None else str(_reference(options.name))
    print("\n".join(runtime.remove_image(name)))
    return 0


def _reference(text: str) -> ImageRef:
    from specs.values import ImageRef

    try:
        return ImageRef.parse(text)
    except ValueError as error:
        raise Problem(str(error), 2) from error


_VERBS = {"pull": _pull, "import": _import, "ls": _list, "rm": _remove}
