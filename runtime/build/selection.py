"""Effects: which files of a source COPY and ADD mean, before anything is copied.

The rules are the Dockerfile reference's: a directory stands for what is in it, a link that is named itself
is followed within its source while links below a directory stay links, a pattern means what matches at its
depth, `--parents` keeps the path of what is named (below a `/./`, where there is one)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.build import places, tree
from runtime.build.ignore import Ignore, IgnoreError
from runtime.build.matching import PatternError, compiled, has_wildcards
from runtime.build.tree import Entry, Sums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.build.tree import Filter
    from runtime.build.watch import Watch


class SelectionError(Exception):
    """A source that cannot be copied: what it is and why, in one clause."""


@dataclass(frozen=True, slots=True)
class Picked:
    """One source. `name` is where it goes below a destination that is a directory, `start` where it lies
    (resolved, "" is the root), `below` what is in a directory, relative to it. `keeps_path` (--parents):
    `name` is a path, and `above` are the directories in it with what they are like in the source."""

    name: str
    start: str
    status: os.stat_result
    below: tuple[Entry, ...] = ()
    above: tuple[Entry, ...] = ()
    keeps_path: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


@dataclass(frozen=True, slots=True)
class Source:
    """Where files are copied from: an open directory, what of it can be seen, how its files are summed.

    `owner`: owners are kept (stages and images), else everything is root's (contexts). `name` is for
    messages. `fenced`: a path that leads above the root is refused rather than taken as the root. `watch` is
    told what was looked at."""

    root: int
    sums: Sums
    name: str
    seen: Filter | None = None
    owner: bool = False
    fenced: bool = False
    watch: Watch | None = None


def pick(source: Source, pattern: str, *, parents: bool = False, exclude: Sequence[str] = ()) -> list[Picked]:
    """What `pattern` means. A pattern with `*`, `?` or `[` may mean nothing; a plain path has to be there.

    Raises SelectionError.
    """
    if source.fenced and _escapes(pattern):
        raise SelectionError(f"{pattern} is outside of {source.name}")
    try:
        out = Ignore.of(exclude) if exclude else None
        return _picked(source, pattern, parents, out)
    except (PatternError, IgnoreError) as error:
        raise SelectionError(f"{pattern}: {error}") from None


def _picked(source: Source, pattern: str, parents: bool, out: Ignore | None) -> list[Picked]:
    if parents:
        return _with_parents(source, pattern, out)
    found = []
    for path in _expand(source, pattern):
        one = _single(source, path, out)
        if one is not None:
            found.append(one)
    if not found and not has_wildcards(pattern):
        raise _missing(source, pattern)
    return found


def digest(source: Source, picked: Sequence[Picked]) -> list[list[str]]:
    """What of the sources a layer follows from, as JSON data: name, kind and sum of each."""
    return [_digest(source, item) for item in picked]


def _digest(source: Source, item: Picked) -> list[str]:
    if not item.is_directory:
        return [item.name, "file", source.sums.single(item.start, item.status, source.owner), _above(item)]
    return [item.name, "directory", source.sums.of(item.start, item.below, source.owner), _above(item)]


def _above(item: Picked) -> str:
    """The modes of directories that are made like their source, which only --parents does."""
    made = [found for _, found in item.above] + ([item.status] if item.keeps_path else [])
    return " ".join(f"{found.st_mode:o}" for found in made)


def _escapes(path: str) -> bool:
    depth = 0
    for part in path.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False


def _missing(source: Source, pattern: str) -> SelectionError:
    path = places.clean(pattern)
    if source.seen is not None and places.status(source.root, places.resolve(source.root, path)) is not None:
        return SelectionError(f"/{path} is not in {source.name}: its ignore file leaves it out")
    return SelectionError(f"/{path} is not in {source.name}")


# ---------------------------------------------------------------- plain paths and patterns


def _single(source: Source, path: str, out: Ignore | None) -> Picked | None:
    """The thing at `path`, its links followed; None when it is not there, or not to be seen."""
    start = _resolved(source, path)
    status = places.status(source.root, start)
    if status is None or _hidden(source, start, status):
        return None
    name = path.rpartition("/")[2]
    if not stat.S_ISDIR(status.st_mode):
        if stat.S_ISSOCK(status.st_mode) or (out is not None and _left_out(out, path, name)):
            return None
        return Picked(name, start, status)
    below = tree.walk(source.root, start, source.seen, source.watch)
    if out is not None:
        below = _without(below, lambda inner, folder: out.excludes(inner, folder))
    elif start and source.seen is not None and not below and source.seen.excludes(start, True):
        return None
    return Picked(name, start, status, tuple(below))


def _resolved(source: Source, path: str) -> str:
    start = places.resolve(source.root, path)
    if source.watch is not None:
        source.watch.way(source.root, path, start)
    return start


def _left_out(out: Ignore, path: str, name: str) -> bool:
    return out.excludes(path, False) or out.excludes(name, False)


def _without(entries: Sequence[Entry], excluded: Callable[[str, bool], bool]) -> list[Entry]:
    """Directories that are excluded stay for what is in them and is not."""
    kept: list[Entry] = []
    needed: set[str] = set()
    for path, status in reversed(entries):
        folder = stat.S_ISDIR(status.st_mode)
        if excluded(path, folder) and not (folder and path in needed):
            continue
        kept.append((path, status))
        needed.add(path.rpartition("/")[0])
    return kept[::-1]


def _hidden(source: Source, path: str, status: os.stat_result) -> bool:
    if source.seen is None or not path:
        return False
    folder = stat.S_ISDIR(status.st_mode)
    return source.seen.excludes(path, folder) and not (folder and source.seen.may_descend(path))


def _expand(source: Source, pattern: str) -> list[str]:
    """The paths that a pattern means, in order; the path itself where it is none."""
    parts = places.clean(pattern).split("/")
    if not has_wildcards(pattern):
        return ["/".join(parts)]
    plain = 0
    while not has_wildcards(parts[plain]):
        plain += 1
    found = ["/".join(parts[:plain])]
    for depth, part in enumerate(parts[plain:], plain):
        last = depth == len(parts) - 1
        found = [path for base in found for path in _level(source, base, part, last)]
    return found


def _level(source: Source, base: str, part: str, last: bool) -> list[str]:
    start = _resolved(source, base)
    paths = []
    wanted = compiled(part, deep=False)
    for name, status in tree.children(source.root, start, wanted.matches):
        full = f"{start}/{name}" if start else name
        if source.watch is not None:
            source.watch.seen[full] = status
        if _hidden(source, full, status) or not (last or stat.S_ISDIR(status.st_mode)):
            continue
        paths.append(f"{base}/{name}" if base else name)
    return paths


# ---------------------------------------------------------------- --parents


def _with_parents(source: Source, pattern: str, out: Ignore | None) -> list[Picked]:
    """Each match under its own path, relative to the place of `/./` or to the root."""
    base, pivot, rest = pattern.rpartition("/./")
    if not pivot:
        base, rest = "", pattern.removeprefix("./")
    start = _resolved(source, places.clean(base))
    wanted = places.clean(rest)
    matcher = compiled(wanted, deep=True)
    there = _is_folder(source, start)
    entries = tree.walk(source.root, start, source.seen, source.watch) if there else []
    statuses = dict(entries)
    found: list[Picked] = []
    taken = ""
    for path, status in entries:
        if taken and path.startswith(taken):
            continue
        if wanted and not matcher.matches(path):
            continue
        one = _match(source, start, path, status, entries, out)
        if one is None:
            continue
        parts = path.split("/")[:-1]
        names = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        above = tuple((name, statuses[name]) for name in names)
        found.append(Picked(one.name, one.start, one.status, one.below, above, True))
        taken = f"{path}/" if one.is_directory else ""
    if not found and not has_wildcards(pattern):
        raise _missing(source, pattern)
    return found


def _match(
    source: Source, start: str, path: str, status: os.stat_result, entries: list[Entry], out: Ignore | None
) -> Picked | None:
    full = f"{start}/{path}" if start else path
    folder = stat.S_ISDIR(status.st_mode)
    if out is not None and out.excludes(path, folder) and not folder:
        return None
    below: list[Entry] = []
    if folder:
        inside = f"{path}/"
        below = [(inner, found) for inner, found in entries if inner.startswith(inside)]
        if out is not None:
            below = _without(below, out.excludes)
        below = [(inner[len(inside) :], found) for inner, found in below]
        if out is not None and not below and out.excludes(path, True):
            return None
    return Picked(path, full, status, tuple(below))


def _is_folder(source: Source, path: str) -> bool:
    return places.is_directory(places.status(source.root, path))
