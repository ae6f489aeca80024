"""Effects: how long it takes to list many images: of one layer each, with a config and a name of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING

from benchmarks.stead import IMAGE
from runtime.local import LocalRuntime
from specs.values import ImageRef

if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

MANY = 200


def listing(bench: Bench) -> None:
    """`image ls` with MANY images, the whole command."""
    what = f"image ls, {MANY} images"
    with LocalRuntime(bench.stead.paths) as runtime:
        image = runtime.images.get(IMAGE)
        assert image is not None
        for number in range(MANY - 1):
            config = {**image.config, "config": {"Labels": {"number": str(number)}}}
            name = ImageRef.parse(f"bench/many{number}:1")
            runtime.images.add_image(json.dumps(config).encode(), image.chain_ids, [name])
    words = bench.stead.words("image", "ls")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == MANY + 1, done.stdout
    bench.add(what, "stead", "ms", [_timed(words, {}) for _ in range(bench.runs)], target=150)
    for rival in bench.rivals:
        archive = str(bench.stead.base.parent / "rootfs.tar")
        for number in range(MANY - 1):
            rival.call("import", "--change", f"LABEL number={number}", archive, f"bench/many{number}:1")
        words = rival.command("images")
        bench.add(what, rival.name, "ms", [_timed(words, rival.environment) for _ in range(bench.runs)])


def _timed(words: list[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(words, env={**os.environ, **environment}, capture_output=True, check=True, timeout=60)
    return (time.perf_counter() - begin) * 1e3
