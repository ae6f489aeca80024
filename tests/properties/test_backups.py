"""Any tree is the same tree after a backup and a restore. Real files, the real worker processes."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings

from runtime.backups.backups import Backups
from runtime.backups.holds import Holds
from runtime.database import CONTAINERS_SCHEMA, Database
from runtime.linux import cgroups
from runtime.paths import Paths
from runtime.volumes import VOLUMES_SCHEMA, Volumes
from runtime.wishes import VolumeRequest
from tests.kernel.images_box import tree
from tests.properties.test_changes import Node, make, place, trees

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices"),
]


@given(trees)
@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_any_tree_is_the_same_tree_after_a_backup_and_a_restore(wanted: Node) -> None:
    with place() as base:
        paths = Paths(base / "root", base / "run")
        paths.make()
        database = Database(paths.database, (VOLUMES_SCHEMA, CONTAINERS_SCHEMA))
        volumes = Volumes(paths, database)
        backups = Backups(paths, database, volumes, cgroups.detect(), Holds(paths), lambda name: None)
        volumes.create(VolumeRequest("p/one", "s", ""))
        data = volumes.get("p/one")
        assert data is not None
        data.path.rmdir()
        make(data.path, wanted, [])
        before = tree(data.path)
        (base / "to").mkdir()
        made = backups.backup("p/one", base / "to", now=1.5e9)
        assert tree(data.path) == before
        assert made.summary.entries == len(before)
        backups.restore("p/two", made.path)
        restored = volumes.get("p/two")
        assert restored is not None
        assert tree(restored.path) == before
        backups.drill("p/one", base / "to")
        assert backups.leftovers() == set()
        assert sorted(os.listdir(base / "to")) == [made.path.name]
        database.close()
