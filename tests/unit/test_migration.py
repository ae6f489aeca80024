"""Files of older releases are opened by this one, with all that is in them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from runtime.database import STEPS, VERSION, Database, NewColumn, statements
from runtime.faults import Fault
from runtime.images.catalog import IMAGES_SCHEMA, Catalog
from runtime.net import records
from runtime.net.fabric import NET_SCHEMA
from runtime.volumes import VOLUMES_SCHEMA
from runtime.wishes import NetworkOptions
from specs.values import ImageRef
from tests.at_once import at_once

SCHEMAS = (IMAGES_SCHEMA, NET_SCHEMA, VOLUMES_SCHEMA)

#: As release 0.1.0 wrote it, with an image, a layer and a container.
FIRST = """
CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, source TEXT NOT NULL,
    project TEXT NOT NULL, identity TEXT NOT NULL, adjustable TEXT NOT NULL, image TEXT NOT NULL,
    image_id TEXT NOT NULL, request TEXT NOT NULL, wanted TEXT NOT NULL, created_at REAL NOT NULL) STRICT;
CREATE INDEX containers_by_source ON containers(source);
CREATE TABLE images (id TEXT PRIMARY KEY, config TEXT NOT NULL, manifest TEXT NOT NULL,
    platform TEXT NOT NULL, size INTEGER NOT NULL, created TEXT NOT NULL) STRICT;
CREATE TABLE image_names (reference TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images(id),
    digest TEXT NOT NULL) STRICT;
CREATE INDEX image_names_by_image ON image_names(image);
CREATE TABLE layers (chain_id TEXT PRIMARY KEY, diff_id TEXT NOT NULL, blob TEXT NOT NULL,
    size INTEGER NOT NULL) STRICT;
CREATE TABLE image_layers (image TEXT NOT NULL REFERENCES images(id), position INTEGER NOT NULL,
    chain_id TEXT NOT NULL REFERENCES layers(chain_id), PRIMARY KEY (image, position)) STRICT, WITHOUT ROWID;
INSERT INTO images VALUES ('sha256:aa', '{"os":"linux"}', '', 'linux/amd64', 7, '2024-05-01T00:00:00Z');
INSERT INTO image_names VALUES ('docker.io/library/app:1', 'sha256:aa', 'sha256:dd');
INSERT INTO layers VALUES ('sha256:cc', 'sha256:cc', '', 7);
INSERT INTO image_layers VALUES ('sha256:aa', 0, 'sha256:cc');
INSERT INTO containers VALUES ('c1', 'shop/web', 's', 'shop', 'i', 'a', 'docker.io/library/app:1',
    'sha256:aa', '{}', 'running', 1.5);
PRAGMA user_version=1;
"""


#: Networks as the first two layouts had them.
NETWORKS = """
CREATE TABLE networks (name TEXT PRIMARY KEY, source TEXT NOT NULL, fingerprint TEXT NOT NULL,
    bridge TEXT NOT NULL, subnet TEXT NOT NULL, gateway TEXT NOT NULL, internal INTEGER NOT NULL,
    mtu INTEGER NOT NULL, labels TEXT NOT NULL, last TEXT NOT NULL DEFAULT '') STRICT;
CREATE TABLE endpoints (container TEXT PRIMARY KEY, name TEXT NOT NULL,
    active INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE leases (network TEXT NOT NULL REFERENCES networks(name), address TEXT NOT NULL,
    container TEXT NOT NULL REFERENCES endpoints(container), position INTEGER NOT NULL, mac TEXT NOT NULL,
    aliases TEXT NOT NULL, PRIMARY KEY (network, address), UNIQUE (container, network)) STRICT;
INSERT INTO networks VALUES ('shop/back', 's', 'f', 'stbx', '10.88.0.0/24', '10.88.0.1', 0, 1500, '{}', '');
INSERT INTO endpoints VALUES ('c1', 'shop/web', 1);
INSERT INTO leases VALUES ('shop/back', '10.88.0.2', 'c1', 0, '02:5d:0a:58:00:02', '["www"]');
PRAGMA user_version=1;
"""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = tmp_path / "stead.db"
    connection = sqlite3.connect(path)
    connection.executescript(FIRST)
    connection.close()
    return path


def layout(path: Path) -> tuple[int, dict[str, list[str]]]:
    connection = sqlite3.connect(path)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = {
        name: sorted(str(row[1:5]) for row in connection.execute(f"PRAGMA table_info({name})"))
        for name in tables
    }
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return version, columns


def test_a_file_of_the_first_release_keeps_its_data_and_gets_the_layout_of_a_new_one(
    first: Path, tmp_path: Path
) -> None:
    before = int(time.time())
    database = Database(first, SCHEMAS)
    image = Catalog(database).get("app:1")
    assert image is not None
    assert (image.id, image.size, image.chain_ids) == ("sha256:aa", 7, ("sha256:cc",))
    parent, added, used = database.read().execute("SELECT parent, added, used FROM images").fetchone()
    assert parent == "" and before <= added == used <= time.time()
    assert database.read().execute("SELECT wanted FROM containers").fetchone()[0] == "running"
    database.close()
    Database(tmp_path / "new.db", SCHEMAS).close()
    assert layout(first) == layout(tmp_path / "new.db")
    assert layout(first)[0] == VERSION


def test_networks_of_an_older_layout_have_no_ipv6_and_nothing_about_them_is_new(first: Path) -> None:
    connection = sqlite3.connect(first)
    connection.executescript(NETWORKS)
    connection.close()
    database = Database(first, SCHEMAS)
    network = records.read_networks(database.read())["shop/back"]
    (lease,) = records.read_leases(database.read())
    assert (network.subnet6, network.gateway6, network.options) == ("", "", NetworkOptions())
    assert network.created > 0
    assert (lease.address, lease.aliases, lease.inside) == ("10.88.0.2", ("www",), "eth0")
    assert (lease.address6, lease.priority, lease.link_local, lease.shard) == ("", 0, (), 0)
    database.close()


def test_several_may_open_an_old_file_at_once(first: Path) -> None:
    assert at_once(8, lambda: Database(first, SCHEMAS).close()) == []
    assert layout(first)[0] == VERSION


def test_a_migration_that_fails_leaves_the_old_file_as_it_was(first: Path, monkeypatch) -> None:
    before = layout(first)
    broken = (*STEPS[1], NewColumn("images", "bad", "TEXT NOT NULL"))  # a NOT NULL needs a default
    monkeypatch.setitem(STEPS, 1, broken)
    with pytest.raises(Fault, match="cannot migrate database") as caught:
        Database(first, SCHEMAS)
    assert str(first) in str(caught.value)
    assert layout(first) == before


def test_statements_end_at_their_semicolons_only() -> None:
    script = "CREATE TABLE a (b TEXT -- one; two\n);\nINSERT INTO a VALUES ('x;y'); -- done\n"
    assert [text.strip() for text in statements(script)] == [
        "CREATE TABLE a (b TEXT -- one; two\n);",
        "INSERT INTO a VALUES ('x;y');",
    ]


# ---------------------------------------------------------------- names


@pytest.fixture
def catalog(first: Path) -> Catalog:
    catalog = Catalog(Database(first, SCHEMAS), clock=lambda: 1000.0)
    catalog.database.read().execute(
        "INSERT INTO images (id, config, manifest, platform, size, created)"
        " VALUES ('sha256:bb', '{}', '', 'linux/amd64', 1, '')"
    )
    return catalog


def test_an_image_whose_name_moves_on_keeps_the_digest_it_was_pulled_by(catalog: Catalog) -> None:
    catalog.name(ImageRef.parse("app:1"), "sha256:bb", "sha256:ee")
    assert catalog.names("sha256:bb") == ("docker.io/library/app:1",)
    assert catalog.names("sha256:aa") == ("docker.io/library/app@sha256:dd",)
    used = catalog.database.read().execute("SELECT used FROM images WHERE id = 'sha256:aa'").fetchone()[0]
    assert used == 1000.0
    catalog.database.close()


def test_a_name_that_is_given_anew_keeps_its_digest(catalog: Catalog) -> None:
    catalog.name(ImageRef.parse("app:1"), "sha256:aa", "")
    assert catalog.digest_of(ImageRef.parse("app:1")) == "sha256:dd"
    assert catalog.names("sha256:aa") == ("docker.io/library/app:1",)
    catalog.database.close()
