"""What tests of images have in common: a store, registries that misbehave on demand, a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.fake_registry import Fake
from tests.kernel.images_box import Box, LocalRegistry, store


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with store(tmp_path / "box") as made:
        yield made


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.stop()


@pytest.fixture
def other() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    made = LocalRegistry(tmp_path_factory.mktemp("registry") / "registry")
    yield made
    made.stop()
