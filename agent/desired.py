"""Effects: revision -> Desired, and the last good revision of each source kept on disk.

What was in force survives agent and machine: after a reboot everything comes back without the source.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent import secrets
from agent.secrets import Keys
from agent.sources import directory
from agent.sources.revision import Revision
from runtime.linux import trees
from runtime.paths import Paths, write_atomically
from specs.desired import Desired
from specs.ignore import LOCK_FILE

#: of the file in which a good revision is kept
VERSION = 1


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What specs may refer to besides their files: variables of the settings, the node's name and labels."""

    variables: Mapping[str, str] = field(default_factory=dict)
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    keys: Keys = field(default_factory=Keys)


@dataclass(frozen=True, slots=True)
class Resolved:
    """`desired` is None when there are problems; each is a line file:line:column: text. `revision` is as it
    is to be kept: with the digests of its secrets, and without their plain text."""

    revision: Revision
    desired: Desired | None
    problems: tuple[str, ...] = ()


def resolve(source: str, revision: Revision, around: Surroundings, *, kept: bool = False) -> Resolved:
    """What `revision` says. Every problem is listed; with one or more of them nothing of it is taken.

    Of one that was good before, and is `kept`, only the specs are read: what images are built from may be
    wrong by now, or gone.
    """
    from specs.resolve import resolve as resolve_files

    found, problems = resolve_files(
        revision.files,
        source=source,
        variables=around.variables,
        node={"name": around.node, "labels": around.labels},
        source_root=revision.root,
        tree=revision.tree,
        profiles=around.profiles,
    )
    texts = tuple(str(problem) for problem in problems)
    if found is not None and not kept and any(image.build for image in found.images.values()):
        from agent import buildfiles

        texts = buildfiles.problems(found, revision.tree or revision.root)
    if found is not None and found.files and not texts:
        filled = secrets.fill(found, revision, around.keys, kept=kept)
        found, texts = filled.desired, filled.problems
        plain = secrets.plain_files(found)
        files = {name: data for name, data in revision.files.items() if name not in plain}
        revision = replace(revision, files=files, secrets=filled.digests)
    return Resolved(revision, None if texts else found, texts)


def load_directory(
    path: Path,
    *,
    name: str = "",
    around: Surroundings | None = None,
    locked: bool = True,
    kept: bool = False,
) -> Resolved:
    """For `stead plan DIR`, `apply`, `down`, `validate`, and `lock`, which takes no notice of the lock file
    that is there. Raises sources.directory.Unreadable."""
    from agent.settings import source_name

    where = Path(path).absolute()
    revision, _ = directory.read(where)
    if not locked:
        files = {name: data for name, data in revision.files.items() if name != LOCK_FILE}
        revision = replace(revision, files=files)
    return resolve(name or source_name(where.resolve().name), revision, around or Surroundings(), kept=kept)


#: revisions of a source that are kept, to go back to
HISTORY = 10


class Shelf:
    """The last good revision of one source and the ones before it, in root/sources/<name>/."""

    def __init__(self, paths: Paths, source: str) -> None:
        self.directory = paths.sources / source
        self._file = self.directory / "good.json"
        self._before = self.directory / "previous.json"
        self._history = self.directory / "history"
        self._converged = self.directory / "converged"  # empty: its time says when

    def put(self, revision: Revision, *, anew: bool = True) -> None:
        """Durable when it returns. What was kept until now is the previous one, if it is another."""
        last = _read(self._file)
        if last is not None and last.id != revision.id:
            write_atomically(self._before, self._file.read_bytes())
        write_atomically(self._file, self.remember(revision, anew=anew))

    def remember(self, revision: Revision, *, anew: bool = True) -> bytes:
        """At the end of the history; where it is in it already only if it is put in force `anew`, and not by
        a person who goes back. Returns what is written of it."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = {name: base64.b64encode(data).decode() for name, data in sorted(revision.files.items())}
        document = {
            "version": VERSION,
            "id": revision.id,
            "note": revision.note,
            "root": revision.root,
            "tree": revision.tree,
            "files": files,
            "secrets": dict(revision.secrets),
        }
        content = json.dumps(document).encode()
        self._remember(revision.id, content, anew)
        return content

    def _remember(self, id: str, content: bytes, anew: bool) -> None:
        self._history.mkdir(exist_ok=True, mode=0o700)
        known = self._numbered()
        same = [file for _, file in known if file.stem.partition("-")[2] == id]
        if same and (same[-1] == known[-1][1] or not anew):
            write_atomically(same[-1], content)
            return
        number = known[-1][0] + 1 if known else 1
        write_atomically(self._history / f"{number:08d}-{id}.json", content)
        others = [file for _, file in known if file not in same]
        for file in (*same, *others[: max(0, len(others) + 1 - HISTORY)]):
            file.unlink(missing_ok=True)

    def _numbered(self) -> list[tuple[int, Path]]:
        """Files of the history with their numbers, oldest first."""
        files = sorted(self._history.glob("[0-9]*-*.json"))
        return [(int(file.stem.partition("-")[0]), file) for file in files]

    def history(self) -> tuple[Revision, ...]:
        """The newest revisions that were in force, oldest first; their files may be gone."""
        found = [_read(file) for _, file in self._numbered()]
        return tuple(revision for revision in found if revision is not None)

    def find(self, id: str) -> Revision | None:
        return next((revision for revision in self.history() if revision.id == id), None)

    def get(self) -> Revision | None:
        """None when there is none, or none that this release can read."""
        return _read(self._file)

    def previous(self) -> Revision | None:
        """The one that was in force before; its files may be gone."""
        return _read(self._before)

    def digests(self) -> set[str]:
        """Of the secrets and configs of every revision that is kept."""
        kept = (self.get(), self.previous(), *self.history())
        return {digest for one in kept if one is not None for digest in one.secrets.values()}

    def converged_at(self) -> float:
        """When all that the source declares was last seen converged, as far as it was noted; 0.0: never."""
        try:
            return self._converged.stat().st_mtime
        except OSError:
            return 0.0

    def note_converged(self, at: float) -> None:
        """A disk that is full or read-only loses it."""
        with suppress(OSError):
            self._converged.touch(mode=0o600)
            os.utime(self._converged, (at, at))

    def drop(self) -> None:
        trees.remove(self.directory, ignore_errors=True)


def _read(file: Path) -> Revision | None:
    try:
        document = json.loads(file.read_bytes())
        if document["version"] != VERSION:
            return None
        files = {name: base64.b64decode(data) for name, data in document["files"].items()}
        tree = document.get("tree", "")
        digests = {str(key): str(digest) for key, digest in document.get("secrets", {}).items()}
        return Revision(document["id"], document["note"], files, document["root"], tree, digests)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
