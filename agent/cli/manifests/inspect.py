"""Effects: `stead manifest inspect`."""

from __future__ import annotations

import base64
import json
import os
import sys
from contextlib import closing
from dataclasses import replace
from typing import Any

from agent.cli.images import store
from agent.cli.main import Problem
from agent.cli.manifests import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.images.indexes import Draft, Entry, Indexes
    from runtime.images.registry import Registries
    from runtime.paths import Paths
    from specs.values import ImageRef


def add_options(parser: argparse.ArgumentParser) -> None:
    place.add_options(parser, insecure=True)
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="a name; or an index that is here and one of its images"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="each image with its platform and manifest"
    )
    parser.add_argument("--raw", action="store_true", help="the bytes as they are, which the digest is of")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from agent.machine import open_registries
    from runtime.images.indexes import Indexes

    if len(options.names) > 2 or (options.raw and options.verbose):
        raise Problem("give one name, or an index and one of its images; and --raw or --verbose", 2)
    refs = [store.reference(text) for text in options.names]
    with closing(open_registries(place.settings_for(options, refs))) as registries:
        indexes = Indexes(paths.root / "manifests", registries)
        if len(refs) == 2:
            _write(_entry_of(indexes, refs[0], refs[1]), options, is_list=False)
            return 0
        draft = indexes.get(refs[0]) if os.geteuid() == 0 else None  # what is put together here is root's
        if draft is not None and options.verbose:
            _write(draft.entries, options, is_list=True)
        elif draft is not None:
            _write_document(draft.document(), options)
        elif options.verbose:
            entries, is_list = _remote(registries, refs[0])
            _write(entries, options, is_list)
        else:
            _write_document(registries.remote(refs[0], "inspect manifest of").manifest().data, options)
    return 0


def _remote(registries: Registries, ref: ImageRef) -> tuple[tuple[Entry, ...], bool]:
    """What a registry has under a name, and whether that is an index."""
    from runtime.images.indexes import remote_entries
    from runtime.images.manifests import Index, parse_manifest

    remote = registries.remote(ref, "inspect manifest of")
    is_list = isinstance(parse_manifest(remote.manifest().data, ref.familiar), Index)
    entries = remote_entries(remote, ref)
    if is_list and ref.tag:
        entries = tuple(replace(entry, source=f"{ref}@{entry.digest}") for entry in entries)  # as docker says
    return entries, is_list


def _entry_of(indexes: Indexes, index: ImageRef, image: ImageRef) -> tuple[Entry, ...]:
    draft: Draft = indexes.need("inspect index", index)
    found = tuple(entry for entry in draft.entries if entry.source == str(image))
    if not found:
        raise Problem(f"cannot inspect {image.familiar}: {index.familiar} has no such image")
    return found


def _write_document(data: bytes, options: argparse.Namespace) -> None:
    if options.raw:
        sys.stdout.buffer.write(data)
    else:
        print(json.dumps(json.loads(data), indent="\t", ensure_ascii=False))


def _write(entries: tuple[Entry, ...], options: argparse.Namespace, is_list: bool) -> None:
    if options.raw:
        sys.stdout.buffer.write(entries[0].data)
        return
    shown = [_document(entry) for entry in entries]
    print(json.dumps(shown if is_list else shown[0], indent="\t", ensure_ascii=False))


def _document(entry: Entry) -> dict[str, Any]:
    """As docker shows it."""
    descriptor = entry.document()
    kind = "SchemaV2Manifest" if "docker" in str(descriptor["mediaType"]) else "OCIManifest"
    return {
        "Ref": entry.source,
        "Descriptor": descriptor,
        "Raw": base64.b64encode(entry.data).decode(),
        kind: json.loads(entry.data),
    }
