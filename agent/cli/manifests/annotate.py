"""Effects: `stead manifest annotate`."""

from __future__ import annotations

from agent.cli.images import store
from agent.cli.main import Problem
from agent.cli.manifests import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    place.add_options(parser)
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("image", metavar="IMAGE", help="as it was named to create, or its digest")
    parser.add_argument("--arch", default="")
    parser.add_argument("--os", default="")
    parser.add_argument("--variant", default="")
    parser.add_argument("--os-version", default="")
    parser.add_argument("--os-features", default="", metavar="FEATURE,...")
    parser.add_argument("--annotation", action="append", default=[], metavar="KEY=VALUE")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.images.indexes import Target

    name, image = store.reference(options.index), options.image
    features = tuple(item for item in options.os_features.split(",") if item)
    change = Target(options.arch, options.os, options.variant, options.os_version, features)
    annotations = dict(_pair(text) for text in options.annotation)
    if not image.startswith("sha256:"):
        image = str(store.reference(image))
    with place.opened(options, paths, []) as runtime:
        runtime.images.indexes.annotate(name, image, change, annotations)
    return 0


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Problem(f"cannot read annotation {text!r}: write KEY=VALUE", 2)
    return key, value
