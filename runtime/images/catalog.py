"""Effects: what the database knows of images: names, ids, configs, the order of layers. No file is touched.

A row is written only after all that it speaks of is on disk: whenever the machine loses power, an image that
is listed is complete.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime import events
from runtime.database import Database
from runtime.faults import Fault
from runtime.images.layers import chain_ids
from runtime.images.manifests import ImageConfig
from runtime.observations import ObservedImage
from specs.values import ImageRef

IMAGES_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    id          TEXT PRIMARY KEY,   -- sha256 of the config's bytes
    config      TEXT NOT NULL,      -- those bytes
    manifest    TEXT NOT NULL,      -- digest of the manifest, empty when imported without one
    platform    TEXT NOT NULL,
    size        INTEGER NOT NULL,   -- of the unpacked layers, bytes
    created     TEXT NOT NULL,
    parent      TEXT NOT NULL DEFAULT '',   -- id of the image that it was made from, if it was made here
    added       REAL NOT NULL DEFAULT 0,    -- seconds since the epoch: when it came into the store
    used        REAL NOT NULL DEFAULT 0     -- ... and when a container or a name last meant it
) STRICT;
CREATE TABLE IF NOT EXISTS image_names (
    reference   TEXT PRIMARY KEY,   -- canonical: host/repository:tag or host/repository@digest
    image       TEXT NOT NULL REFERENCES images(id),
    digest      TEXT NOT NULL       -- what the registry calls it: of the index or manifest that was pulled
) STRICT;
CREATE INDEX IF NOT EXISTS images_by_parent ON images(parent) WHERE parent <> '';
CREATE INDEX IF NOT EXISTS image_names_by_image ON image_names(image);
CREATE TABLE IF NOT EXISTS layers (
    chain_id    TEXT PRIMARY KEY,
    diff_id     TEXT NOT NULL,
    blob        TEXT NOT NULL,      -- digest of the (compressed) archive it came from; empty: none is kept
    size        INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS image_layers (
    image       TEXT NOT NULL REFERENCES images(id),
    position    INTEGER NOT NULL,   -- 0: bottom
    chain_id    TEXT NOT NULL REFERENCES layers(chain_id),
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS image_layers_by_chain ON image_layers(chain_id);
CREATE TABLE IF NOT EXISTS layer_pins (
    holder      TEXT NOT NULL,      -- who else needs the layer: a step of the build cache
    chain_id    TEXT NOT NULL,
    PRIMARY KEY (holder, chain_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS layer_pins_by_chain ON layer_pins(chain_id);
"""

_PULLED_BY = "digest = ? AND substr(reference, 1, ?) = ?"  # tags that stand for the digest of a name


def _pulled_by(name: str) -> tuple[str, int, str]:
    repository, _, digest = name.partition("@")
    return digest, len(repository) + 1, f"{repository}:"


Images = list[ObservedImage]  # Catalog.list hides the builtin in annotations


@dataclass(frozen=True, slots=True)
class StoredImage:
    """`id` is `sha256:<hex>` of the config, `config` the whole config document, `chain_ids` bottom first."""

    id: str
    names: tuple[str, ...]
    config: Mapping[str, Any]
    chain_ids: tuple[str, ...]
    size: int = 0
    created: str = ""


@dataclass(frozen=True, slots=True)
class NewImage:
    """What is to be recorded. `text` is the config's bytes, `id` their digest; `manifest` is the digest of
    the stored manifest or empty; `blobs` are the digests of the layers' archives, bottom first, empty where
    there is none yet. `parent` is the id of the image that it was made from, if it was made here."""

    id: str
    text: bytes
    config: ImageConfig
    blobs: Sequence[str]
    manifest: str = ""
    parent: str = ""


def _observed(row: sqlite3.Row, called: Sequence[tuple[str, str]]) -> ObservedImage:
    names, digests = tuple(name for name, _ in called), tuple(digest for _, digest in called)
    return ObservedImage(row[0], names, row[1], row[2], row[3], digests)


def _check_name(text: str, operation: str) -> None:
    """Fault request-invalid for what can be no name and no id of an image."""
    try:
        ImageRef.parse(text)
    except ValueError as error:
        if not set(text.removeprefix("sha256:")) <= set("0123456789abcdef") or not text:
            cause = str(error).partition(": ")[2]
            raise Fault("request-invalid", operation, repr(text), cause) from error


class Catalog:
    """The rows of one database. Thread-safe; several processes may use one at once."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database, self._clock = database, clock

    def list(self) -> Images:
        called: dict[str, list[tuple[str, str]]] = {}
        connection = self.database.read()
        query = "SELECT image, reference, digest FROM image_names ORDER BY reference"
        for image, *names in connection.execute(query):
            called.setdefault(image, []).append((names[0], names[1]))
        rows = connection.execute("SELECT id, size, created, platform FROM images ORDER BY id").fetchall()
        return [_observed(row, called.get(row[0], ())) for row in rows]

    def layer_bytes(self) -> int:
        found = self.database.read().execute("SELECT coalesce(sum(size), 0) FROM layers").fetchone()
        return int(found[0])

    def get(self, name_or_id: str) -> StoredImage | None:
        """By canonical or familiar reference, id, or a prefix of an id that fits one image only."""
        id = self.find(name_or_id)
        if not id:
            return None
        connection = self.database.read()
        row = connection.execute("SELECT config, size, created FROM images WHERE id = ?", (id,)).fetchone()
        if row is None:
            return None
        return StoredImage(id, self.names(id), json.loads(row[0]), self.chain(id), row[1], row[2])

    def find(self, text: str) -> str:
        """The id of the image that `text` means; empty for none, or for several."""
        if text.startswith("sha256:") and self._is_there(text):
            return text
        named = self._named(text)
        if named is not None:
            return named[1]
        fitting = self._fitting(text)
        return fitting[0] if len(fitting) == 1 else ""

    def _is_there(self, id: str) -> bool:
        row = self.database.read().execute("SELECT 1 FROM images WHERE id = ?", (id,)).fetchone()
        return row is not None

    def need(self, text: str, operation: str) -> str:
        """As `find`; Fault image-not-found, or request-invalid where several ids begin so."""
        id = self.find(text)
        if id:
            return id
        fitting = self._fitting(text)
        if fitting:
            some = ", ".join(item[7:19] for item in fitting)
            cause = f"several ids begin so: {some}"
            raise Fault("request-invalid", operation, text, cause, "write more of it")
        _check_name(text, operation)
        raise Fault("image-not-found", operation, text, "it is not in the store")

    def called(self, text: str) -> str:
        """The canonical name that `text` is; empty where it means an image by its id, or none."""
        named = self._named(text)
        return named[0] if named is not None else ""

    def _named(self, text: str) -> tuple[str, str] | None:
        """(canonical name, image id). A tag that was pulled stands for the digest it was pulled by, too."""
        connection = self.database.read()
        query = "SELECT reference, image FROM image_names WHERE reference = ?"
        row = connection.execute(query, (text,)).fetchone()
        if row is None:
            try:
                ref = ImageRef.parse(text)
            except ValueError:
                return None
            row = connection.execute(query, (str(ref),)).fetchone()
            if row is None and ref.digest:
                query = f"SELECT ?, image FROM image_names WHERE {_PULLED_BY}"
                row = connection.execute(query, (str(ref), *_pulled_by(str(ref)))).fetchone()
        return None if row is None else (str(row[0]), str(row[1]))

    def _fitting(self, text: str) -> Sequence[str]:
        """Some ids that begin so."""
        digits = text.removeprefix("sha256:")
        if not digits or not set(digits) <= set("0123456789abcdef"):
            return ()
        query = "SELECT id FROM images WHERE id LIKE ? LIMIT 3"
        rows = self.database.read().execute(query, (f"sha256:{digits}%",))
        return tuple(row[0] for row in rows)

    def unname(self, names: Sequence[str]) -> None:
        """These canonical names mean nothing from now on. A tag that goes leaves the digest that it was
        pulled by, unless that is among them."""
        with self.database.write() as connection:
            for name in names:
                query = "SELECT image, digest FROM image_names WHERE reference = ?"
                image, digest = connection.execute(query, (name,)).fetchone() or ("", "")
                connection.execute("DELETE FROM image_names WHERE reference = ?", (name,))
                if "@" in name:
                    statement = f"UPDATE image_names SET digest = '' WHERE {_PULLED_BY}"
                    connection.execute(statement, _pulled_by(name))
                elif digest and f"{name.rpartition(':')[0]}@{digest}" not in names:
                    ref = ImageRef.parse(name)
                    self.name(ImageRef(ref.host, ref.repository, digest=digest), image, digest)

    def delete(self, id: str) -> None:
        """The image is none any more; its layers and blobs are for `Collector.collect`."""
        with self.database.write() as connection:
            for table, column in (("image_names", "image"), ("image_layers", "image"), ("images", "id")):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (id,))

    def config(self, id: str) -> bytes:
        """An image's config as it is, byte for byte; empty where it is not here."""
        row = self.database.read().execute("SELECT config FROM images WHERE id = ?", (id,)).fetchone()
        return str(row[0]).encode() if row else b""

    def names(self, id: str) -> tuple[str, ...]:
        query = "SELECT reference FROM image_names WHERE image = ? ORDER BY reference"
        return tuple(row[0] for row in self.database.read().execute(query, (id,)))

    def chain(self, id: str) -> tuple[str, ...]:
        query = "SELECT chain_id FROM image_layers WHERE image = ? ORDER BY position"
        return tuple(row[0] for row in self.database.read().execute(query, (id,)))

    def digest_of(self, ref: ImageRef) -> str:
        query = "SELECT digest FROM image_names WHERE reference = ?"
        row = self.database.read().execute(query, (str(ref),)).fetchone()
        return str(row[0]) if row and row[0] else "unknown"

    def layer(self, chain_id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = (
            self.database.read().execute("SELECT * FROM layers WHERE chain_id = ?", (chain_id,)).fetchone()
        )
        return row

    def add_layer(self, chain_id: str, diff_id: str, blob: str, size: int) -> None:
        """An unpacked layer that is on disk. Known ones keep the larger size and take the newer archive."""
        with self.database.write() as connection:
            connection.execute(
                "INSERT INTO layers (chain_id, diff_id, blob, size) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET size = max(size, excluded.size),"
                " blob = CASE excluded.blob WHEN '' THEN blob ELSE excluded.blob END",
                (chain_id, diff_id, blob, size),
            )

    def record(self, new: NewImage, names: Sequence[ImageRef], digest: str = "") -> str:
        """An image whose layers are on disk, and what it is called from now on. Repeatable. Returns its
        id."""
        chain = chain_ids(new.config.diff_ids)
        parent = "" if new.parent == new.id else new.parent
        with self.database.write() as connection:
            for chain_id, diff_id, blob in zip(chain, new.config.diff_ids, new.blobs, strict=True):
                connection.execute(
                    "INSERT OR IGNORE INTO layers (chain_id, diff_id, blob, size) VALUES (?, ?, ?, 0)",
                    (chain_id, diff_id, blob),
                )
            marks = ",".join("?" * len(chain))
            size = connection.execute(
                f"SELECT coalesce(sum(size), 0) FROM layers WHERE chain_id IN ({marks})", chain
            ).fetchone()[0]
            text, platform, now = new.text.decode(), str(new.config.platform), self._clock()
            connection.execute(
                "INSERT INTO images (id, config, manifest, platform, size, created, parent, added, used)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET size = excluded.size,"
                " used = excluded.used, parent = iif(parent = '', excluded.parent, parent),"
                " manifest = iif(manifest = '', excluded.manifest, manifest)",
                (new.id, text, new.manifest, platform, size, new.config.created, parent, now, now),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO image_layers (image, position, chain_id) VALUES (?, ?, ?)",
                [(new.id, position, chain_id) for position, chain_id in enumerate(chain)],
            )
            for name in names:
                self.name(name, new.id, digest)
        return new.id

    def name(self, ref: ImageRef, id: str, digest: str) -> str:
        """The image is called `ref` from now on. One that was called so keeps the digest that `ref` had, as
        `host/repository@digest`: it can still be pulled and named by that. Fault image-not-found when it was
        removed a moment ago."""
        with self.database.write() as connection:
            if not self.touch(id):
                raise Fault("image-not-found", "name image", ref.familiar, "it was removed at this moment")
            query = "SELECT image, digest FROM image_names WHERE reference = ?"
            former, known = connection.execute(query, (str(ref),)).fetchone() or ("", "")
            if former == id and not digest:
                return id
            if known and known != digest and not ref.digest:
                self.name(ImageRef(ref.host, ref.repository, digest=known), former, known)
            connection.execute(
                "INSERT INTO image_names (reference, image, digest) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET image = excluded.image, digest = excluded.digest",
                (str(ref), id, digest),
            )
            if former:
                self.touch(former)
        return id

    def touch(self, *ids: str) -> int:
        """These images are, or were until now, meant by something. Returns how many of them are there."""
        with self.database.write() as connection:
            return connection.executemany(
                "UPDATE images SET used = ? WHERE id = ?", [(self._clock(), id) for id in ids]
            ).rowcount

    def tag(self, id: str, ref: ImageRef) -> None:
        """Give an image another name; the name leaves whatever image had it."""
        image = self.need(id, "tag image")
        if ref.digest:
            raise Fault("request-invalid", "tag image", id, "a name with a digest cannot be given")
        self.name(ref, image, "")
        events.tell(self.database.path.parent, "image", "tag", image, ref.familiar)
