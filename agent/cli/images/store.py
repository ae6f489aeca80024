"""Effects: what the commands about images have in common: store, references, word to the agent."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

from agent.cli.main import Problem, need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.images.store import ImageStore
    from runtime.local import LocalRuntime
    from runtime.paths import Paths
    from specs.values import ImageRef


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settings", metavar="FILE", help="settings (default: /etc/stead/stead.toml if there)"
    )


@contextmanager
def opened(options: argparse.Namespace, paths: Paths) -> Iterator[LocalRuntime]:
    """The runtime with the settings' registries. Needs root."""
    from agent.cli import specs
    from agent.machine import open_runtime

    need_root()
    with closing(open_runtime(paths, specs.settings_of(options))) as runtime:
        yield runtime


@contextmanager
def local(paths: Paths) -> Iterator[ImageStore]:
    """The store alone, for what asks no registry: in half the time. Needs root."""
    from agent.cli.images import rows
    from runtime.images.store import ImageStore

    with rows.catalog(paths) as catalog, closing(ImageStore(paths, catalog.database)) as images:
        yield images


def reference(text: str) -> ImageRef:
    from specs.values import ImageRef

    try:
        return ImageRef.parse(text)
    except ValueError as error:
        raise Problem(str(error), 2) from error


def wake_agent(paths: Paths) -> None:
    """A name means another image now, or an image is there that was waited for: let the agent look, if one
    runs."""
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
