"""Effects: how long a build takes: ten instructions that copy 2,000 small files, all done and all cached."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rivals import IMAGE, Engine, Unavailable

if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

FILES, SIZE = 2000, 1000
#: Ten instructions: of them two that run, three that copy.
DOCKERFILE = f"""FROM {IMAGE}
ARG VERSION=1
ENV APP=/app
WORKDIR /app
COPY . .
RUN echo $VERSION > version
COPY d0 /copy
RUN echo done > /done
COPY d1/f1 /one
CMD ["sh"]
"""
WARM = 3.0  # s after which files count as not just written


def build(bench: Bench) -> None:
    """The whole command, with `--no-cache` and again without a change."""
    context = make_context(bench.stead.base.parent / "context")
    runs = max(5, min(bench.runs, 9))
    words = bench.stead.words("build", "-t", "bench/built:1", str(context))
    measure(bench, "stead", words, {}, runs, targets=(1050, 60))
    bare = [timed([sys.executable, "-c", "pass"], {}) for _ in range(runs)]
    bench.add(f"build, {FILES} files, cached", "python", "ms", bare, note="-c pass: the least that it can be")
    for rival in bench.rivals:
        try:
            measure(bench, rival.name, command(rival, context), rival.environment, runs)
        except Unavailable as reason:
            print(f"without {rival.name} build: {reason}")


def make_context(place: Path) -> Path:
    for number in range(FILES):
        path = place / f"d{number // 100}" / f"f{number % 100}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SIZE))
    (place / "Dockerfile").write_text(DOCKERFILE)
    time.sleep(WARM)
    return place


def command(rival: Engine, context: Path) -> list[str]:
    """BuildKit of docker, buildah of podman."""
    words = ["build", "-t", "bench/built:1", str(context)]
    if rival.name == "docker":
        rival.environment["DOCKER_BUILDKIT"] = "1"
        return [_docker(rival), *words]
    return rival.command(words[0], "--layers", *words[1:])


def _docker(rival: Engine) -> str:
    """A client that can speak with BuildKit: a newer one wants a plugin for that, which may be missing."""
    found = [name for name in (shutil.which("docker"), "/usr/bin/docker") if name and Path(name).exists()]
    for name in found:
        done = subprocess.run(
            [name, "build", "--help"], env=rival.environment, capture_output=True, text=True
        )
        if "--secret" in done.stdout:
            return name
    raise Unavailable("no docker here speaks with BuildKit")


def measure(
    bench: Bench,
    name: str,
    words: list[str],
    environment: dict[str, str],
    runs: int,
    *,
    targets: tuple[float | None, float | None] = (None, None),
) -> None:
    at = words.index("build") + 1
    cold = [*words[:at], "--no-cache", *words[at:]]
    timed(words, environment)  # whatever is started or loaded once
    for what, said, target in (("no cache", cold, targets[0]), ("cached", words, targets[1])):
        timed(said, environment)
        values = [timed(said, environment) for _ in range(runs)]
        bench.add(f"build, {FILES} files, {what}", name, "ms", values, target=target)


def timed(words: Sequence[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        raise Unavailable(f"{' '.join(words[:3])}: {done.stderr[-300:]}")
    return (time.perf_counter() - begin) * 1e3
