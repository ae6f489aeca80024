"""Effects: engines that are started once, for all cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.build.engines import ENGINES, Engine, base_layout, missing

#: The engines that are tried: STEAD_BUILDERS="stead buildah buildkit". The last is for writing cases.
BUILDERS = os.environ.get("STEAD_BUILDERS", "stead buildah").split()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What buildah makes of a case changes with none of our commits: half of the cases by chance, unless the
    engines are named."""
    if "STEAD_BUILDERS" in os.environ:
        return
    theirs = [item for item in items if "test_corpus" in item.nodeid and "buildah" in item.name]
    left = set(theirs[os.getpid() % 2 :: 2])
    config.hook.pytest_deselected(items=list(left))
    items[:] = [item for item in items if item not in left]


@pytest.fixture(scope="session")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Engine]]:
    started: dict[str, Engine] = {}
    layout: list[Path] = []

    def get(name: str) -> Engine:
        if os.geteuid():
            pytest.skip("needs root")
        if name not in started:
            if lacking := missing(name):
                pytest.skip(f"needs {', '.join(lacking)}")
            directory = tmp_path_factory.mktemp("builders")
            if not layout:
                layout.append(base_layout(directory / "layout"))
            engine = ENGINES[name](directory / name)
            started[name] = engine
            stack.callback(engine.close)
            engine.start(layout[0])
        return started[name]

    with ExitStack() as stack:
        yield get
