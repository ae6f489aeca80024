"""Effects: `stead image save`, and where what is saved or exported goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.cli.images import rows
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import BinaryIO

    from runtime.images.sinks import Sink
    from runtime.paths import Paths

_FORMATS = ("docker-archive", "oci-archive", "oci-dir", "docker-dir")


def add_options(parser: argparse.ArgumentParser) -> None:
    text = "file (of the formats *-dir: directory) to write, instead of standard output"
    parser.add_argument("-o", "--output", metavar="PATH", help=text)
    text = "docker-archive (which is an OCI layout, too), oci-archive, oci-dir or oci, docker-dir"
    formats = (*_FORMATS, "oci")
    parser.add_argument("--format", default=_FORMATS[0], choices=formats, metavar="FORMAT", help=text)
    parser.add_argument("names", nargs="+", metavar="NAME", help="name or id; a repository: all its tags")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.images import sinks

    form = "oci-dir" if options.format == "oci" else options.format
    if form.endswith("-dir"):
        if not options.output:
            raise Problem(f"the format {form} is a directory: name it with -o", 2)
        path = Path(options.output).absolute()
        try:
            with sinks.written_folder(path) as folder:
                _save(options.names, form, sinks.FolderSink(folder), paths)
        except FileExistsError:
            raise Problem(f"cannot save to {options.output}: it exists and is not empty") from None
        return 0
    with output(options.output, "save images") as file:
        sink = sinks.TarSink(file, paths.root)
        _save(options.names, form, sink, paths)
        sink.close()
    return 0


def _save(names: Sequence[str], form: str, sink: Sink, paths: Paths) -> None:
    """Of the store alone: no registry and no container is looked at."""
    from runtime.images.blobs import BlobStore
    from runtime.images.collect import Collector
    from runtime.images.compose import Composer
    from runtime.images.layers import LayerStore
    from runtime.images.save import Saver, chosen

    with rows.catalog(paths) as catalog:
        blobs, layers = BlobStore(paths.blobs), LayerStore(paths.layers)
        with Collector(paths, catalog, blobs, layers).using():
            Saver(catalog, blobs, Composer(catalog, blobs, layers)).save(chosen(catalog, names), form, sink)


@contextmanager
def output(name: str | None, operation: str) -> Iterator[BinaryIO]:
    """The file, under its name only when it is complete; without a name standard output, unless that is a
    terminal."""
    from runtime.images import sinks

    if name and name != "-":
        try:
            with sinks.written(Path(name).absolute()) as file:
                yield file
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise Problem(f"cannot write {name}: {(error.strerror or str(error)).lower()}") from error
        return
    if os.isatty(1):
        raise Problem(f"cannot {operation} to a terminal; name a file with -o", 2)
    with open(1, "wb", closefd=False) as standard:
        yield standard
