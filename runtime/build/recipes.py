"""Effects: what a command to build came to last time, so that saying it again costs next to nothing.

A recipe names everything that the result followed from: the bytes of the Dockerfile and the ignore file, the
sums of what was copied, the images begun from, the steps. While all that holds, the result is the image that
the recipe names; anything else, or any doubt, and the build is gone through as ever. Imports little: no
dataclasses, no parser, none of the image store.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
import time

from runtime.build import places, tree
from runtime.build.glance import FORMAT, TOUCH
from runtime.build.watch import Notes, Watch
from runtime.paths import Paths, write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    Recipe = dict[str, Any]

#: Recipes and glances that are kept.
MAX_RECIPES = 400
#: Seconds for which another writer is waited for.
TIMEOUT = 10.0


def place_of(paths: Paths, said: object) -> Path:
    """Where the recipe of a command is; `said` is JSON data: all that the command says."""
    text = json.dumps([FORMAT, said], sort_keys=True)
    return paths.root / "build" / "recipes" / f"{hashlib.sha256(os.fsencode(text)).hexdigest()[:32]}.json"


def find(paths: Paths, place: Path, notes: Notes | None = None) -> Recipe | None:
    """The recipe, where all that it names is still so; `notes` are for a glance next time."""
    try:
        recipe: Recipe = json.loads(place.read_bytes())
        held = recipe["format"] == FORMAT and _holds(paths, recipe, notes or Notes(paths.database))
        return recipe if held else None
    except (OSError, ValueError, KeyError, TypeError, sqlite3.Error):
        return None


def keep(place: Path, recipe: Recipe) -> None:
    """Losing it costs time only."""
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(place, json.dumps({**recipe, "format": FORMAT}).encode(), durable=False)
        kept = sorted(place.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in kept[:-MAX_RECIPES]:
            old.unlink(missing_ok=True)
    except OSError:
        pass


def file_sum(path: str) -> str:
    """Of a Dockerfile or ignore file; empty where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def _holds(paths: Paths, recipe: Recipe, notes: Notes) -> bool:
    notes.follow(path for path, _ in recipe["files"])
    notes.follow(_layers(paths, recipe))
    if any(file_sum(path) != told for path, told in recipe["files"]):
        return False
    connection = sqlite3.connect(f"file:{paths.database}?mode=ro", uri=True, timeout=TIMEOUT)
    try:
        if not _known(connection, paths, recipe):
            return False
    finally:
        connection.close()
    if not all(_same(paths, item, notes) for item in recipe["contexts"]):
        return False
    _touch(paths, recipe["steps"])
    return True


def _touch(paths: Paths, steps: list[str]) -> None:
    """The steps were used; nothing is written where that was noted a moment ago."""
    now = time.time()
    connection = sqlite3.connect(paths.database, timeout=TIMEOUT)
    try:
        stale = [
            (now, key)
            for key in steps
            for (used,) in connection.execute("SELECT used FROM build_cache WHERE key = ?", (key,))
            if now - used > TOUCH
        ]
        with connection:
            connection.executemany("UPDATE build_cache SET used = ? WHERE key = ?", stale)
    finally:
        connection.close()


def _known(connection: sqlite3.Connection, paths: Paths, recipe: Recipe) -> bool:
    """Whether images, names and steps are as they were, and every layer is there."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != recipe["layout"]:
        return False
    names = {**recipe["bases"], **dict.fromkeys(recipe["names"], recipe["image"])}
    for name, id in names.items():
        row = connection.execute("SELECT image FROM image_names WHERE reference = ?", (name,)).fetchone()
        if row is None or row[0] != id:
            return False
    if connection.execute("SELECT 1 FROM images WHERE id = ?", (recipe["image"],)).fetchone() is None:
        return False
    for key in recipe["steps"]:
        if connection.execute("SELECT 1 FROM build_cache WHERE key = ?", (key,)).fetchone() is None:
            return False
    return all(map(os.path.isdir, _layers(paths, recipe)))


def _layers(paths: Paths, recipe: Recipe) -> list[str]:
    return [f"{paths.layers}/{chain.partition(':')[2]}" for chain in recipe["chain"]]


def _same(paths: Paths, context: Recipe, notes: Notes) -> bool:
    root, watch = os.open(context["directory"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), Watch()
    try:
        sums = tree.Sums(root, tree.memory_of(paths.root / "build" / "sums", root))
        held = all(
            _sum(root, sums, context["ignore"], item, watch) == item["sums"] for item in context["picked"]
        )
        sums.save()
        notes.add(context["directory"], watch)
        return held
    finally:
        os.close(root)


def _sum(root: int, sums: tree.Sums, ignore: str, item: Recipe, watch: Watch) -> list[list[str]]:
    """As selection.digest tells it. A plain path of a context without an ignore file needs no more than
    this."""
    pattern = item["pattern"]
    if ignore or item["parents"] or item["exclude"] or any(mark in pattern for mark in "*?[\\"):
        return _selected(root, sums, ignore, item, watch)
    path = places.clean(pattern)
    start = places.resolve(root, path)
    watch.way(root, path, start)
    found = places.status(root, start)
    if found is None:
        return []
    name = path.rpartition("/")[2]
    if not stat.S_ISDIR(found.st_mode):
        return [[name, "file", sums.single(start, found, False), ""]]
    return [[name, "directory", sums.of(start, tree.walk(root, start, None, watch), False), ""]]


def _selected(root: int, sums: tree.Sums, ignore: str, item: Recipe, watch: Watch) -> list[list[str]]:
    from runtime.build import selection
    from runtime.build.ignore import Ignore

    seen = None
    if ignore:
        with open(ignore, "rb") as file:
            seen = Ignore.parse(file.read())
    source = selection.Source(root, sums, "the build context", seen, fenced=True, watch=watch)
    try:
        picked = selection.pick(source, item["pattern"], parents=item["parents"], exclude=item["exclude"])
    except selection.SelectionError:
        return []
    return selection.digest(source, picked)
