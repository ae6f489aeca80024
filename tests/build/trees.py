"""Values: file trees as lines that a person can write and compare.

    bin/tool [755 1000:1000] "content"     a file; without content it is empty, `...` is any content
    etc/                                   a directory
    lib -> usr/lib                         a symbolic link
    usr/twin == bin/tool                   another name of the same file
    run/pipe|                              a FIFO
    dev/zero [666 c1,5]                    a device
    !etc/motd                              was in the base and is not any more

Brackets hold what differs from mode 644 (755 for directories), owner 0:0, and more where it matters:
`mtime=SECONDS`, `user.name=value` for extended attributes. A path with blanks is written as a JSON string.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

Xattrs = tuple[tuple[str, str], ...]

ANY = "..."
_LINE = re.compile(
    r"""(?P<gone>!)?
    (?P<path>"(?:[^"\\]|\\.)*"|[^\s"\[|]+?)
    (?P<mark>[/|])?
    (?:\s+\[(?P<attributes>[^\]]*)\])?
    (?:\s+(?:->\s+(?P<target>\S+)|==\s+(?P<twin>\S+)|(?P<content>"(?:[^"\\]|\\.)*"|\.\.\.)))?
    \s*""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Entry:
    """One name. `kind` is one of `-dlp` and device types as ls(1) writes them; `detail` is content, target or
    number; `twins` are the other names of the file. `mtime` in seconds, None where nobody cares.
    """

    kind: str
    mode: int
    uid: int = 0
    gid: int = 0
    detail: str = ""
    twins: tuple[str, ...] = ()
    xattrs: Xattrs = ()
    mtime: int | None = None

    def line(self, path: str) -> str:
        name = json.dumps(path) if re.search(r'[\s"\[|]', path) else path
        marks = {"d": "/", "p": "|"}
        told = [f"{self.mode:o}"] if self.mode != (0o755 if self.kind == "d" else 0o644) else []
        told = [] if self.kind == "l" else told
        told += [f"{self.uid}:{self.gid}"] if (self.uid, self.gid) != (0, 0) else []
        told += [f"{self.kind}{self.detail}"] if self.kind in "cb" else []
        told += [f"mtime={self.mtime}"] if self.mtime is not None else []
        told += [f"{key}={value}" for key, value in self.xattrs]
        text = name + marks.get(self.kind, "") + (f" [{' '.join(told)}]" if told else "")
        if self.kind == "l":
            return f"{text} -> {self.detail}"
        if self.twins and path != min(path, *self.twins):
            return f"{text} == {min(self.twins)}"
        if self.kind == "-" and self.detail:
            return f"{text} {self.detail if self.detail == ANY else json.dumps(self.detail)}"
        return text


Tree = dict[str, Entry]


@dataclass(frozen=True)
class Expected:
    """What a case wants: changed or new entries, and paths that are gone."""

    entries: Mapping[str, Entry]
    gone: frozenset[str] = field(default_factory=frozenset)

    def lines(self) -> list[str]:
        found = [entry.line(path) for path, entry in self.entries.items()]
        return sorted(found + [f"!{path}" for path in self.gone])


def parse(text: str) -> Expected:
    """ValueError names a line that is none."""
    entries: dict[str, Entry] = {}
    gone = set()
    for line in text.splitlines():
        if not line.strip() or line.startswith("# "):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"not a line of a tree: {line}")
        path = json.loads(match["path"]) if match["path"].startswith('"') else match["path"]
        if match["gone"]:
            gone.add(path)
            continue
        if path in entries:
            raise ValueError(f"twice in a tree: {path}")
        entries[path] = _entry(match, entries)
    groups: dict[str, list[str]] = {}
    for path, entry in entries.items():
        if entry.twins:
            groups.setdefault(entry.twins[0], [entry.twins[0]]).append(path)
    for names in groups.values():
        first = entries[names[0]]
        for name in names:
            entries[name] = replace(first, twins=tuple(sorted(set(names) - {name})))
    return Expected(entries, frozenset(gone))


def _entry(match: re.Match[str], known: Mapping[str, Entry]) -> Entry:
    kind = {"/": "d", "|": "p"}.get(match["mark"] or "", "l" if match["target"] else "-")
    entry = Entry(kind, 0o755 if kind == "d" else 0o777 if kind == "l" else 0o644)
    if match["twin"]:
        return replace(known[match["twin"]], twins=(match["twin"],))
    content = match["content"] or '""'
    entry = replace(entry, detail=match["target"] or (ANY if content == ANY else json.loads(content)))
    xattrs = []
    for word in (match["attributes"] or "").split():
        if re.fullmatch(r"[0-7]{3,4}", word):
            entry = replace(entry, mode=int(word, 8))
        elif re.fullmatch(r"\d+:\d+", word):
            uid, gid = word.split(":")
            entry = replace(entry, uid=int(uid), gid=int(gid))
        elif re.fullmatch(r"[cb]\d+,\d+", word):
            entry = replace(entry, kind=word[0], detail=word[1:])
        elif word.startswith("mtime="):
            entry = replace(entry, mtime=int(word[6:]))
        elif "=" in word:
            key, value = word.split("=", 1)
            xattrs.append((key, value))
        else:
            raise ValueError(f"not an attribute: {word}")
    return replace(entry, xattrs=tuple(sorted(xattrs)))


def read(root: Path) -> Tree:
    """Everything below `root`; the root itself is called `.`."""
    found: Tree = {}
    names: dict[tuple[int, int], list[str]] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files] + (["."] if folder == str(root) else []):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            status = os.lstat(path)
            found[relative] = _look(path, status)
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                names.setdefault((status.st_dev, status.st_ino), []).append(relative)
    for group in names.values():
        for name in group:
            found[name] = replace(found[name], twins=tuple(sorted(set(group) - {name})))
    return found


def _look(path: str, status: os.stat_result) -> Entry:
    kind = stat.filemode(status.st_mode)[0]
    detail = ""
    if kind == "-":
        detail = Path(path).read_bytes().decode(errors="surrogateescape")
    elif kind == "l":
        detail = os.readlink(path)
    elif kind in "cb":
        detail = f"{os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
    xattrs = tuple(
        (
            key,
            os.getxattr(path, key, follow_symlinks=False).hex()
            if key.startswith("security.")
            else _text(path, key),
        )
        for key in sorted(os.listxattr(path, follow_symlinks=False))
        if not key.startswith("trusted.overlay.")
    )
    mode = stat.S_IMODE(status.st_mode)
    return Entry(kind, mode, status.st_uid, status.st_gid, detail, (), xattrs, int(status.st_mtime))


def _text(path: str, key: str) -> str:
    return os.getxattr(path, key, follow_symlinks=False).decode(errors="replace")


def changes(base: Tree, result: Tree, expected: Expected) -> list[str]:
    """The lines of what is new or other than in `base`, as far as `expected` cares: times, and the content of
    files, only where it says something of them. Times of the base's own entries do not count.
    """
    ground = {".": Entry("d", 0o755), **base}
    told = []
    for path, entry in result.items():
        wanted = expected.entries.get(path)
        if wanted is None and path in ground and _timeless(ground[path]) == _timeless(entry):
            continue
        if wanted is None or wanted.mtime is None:
            entry = replace(entry, mtime=None)
        if wanted is not None and wanted.detail == ANY:
            entry = replace(entry, detail=ANY)
        told.append(entry.line(path))
    gone: Iterable[str] = (path for path in base if path not in result)
    return sorted(told + [f"!{path}" for path in gone])


def _timeless(entry: Entry) -> Entry:
    return replace(entry, mtime=None)
