"""Effects: `stead schema`: the JSON Schema of spec files on standard output, for editors."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(options: argparse.Namespace, paths: Paths) -> int:
    from specs.schema import json_schema

    print(json.dumps(json_schema(), indent=1))
    return 0
