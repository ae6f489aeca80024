"""Values: the cases of the corpus, read from cases/*.toml.

[[case]]
name = "copies what is in a directory, not the directory"
dockerfile = '''...'''            or `dockerfiles` = {NAME = text}, with -f among `options`
files = {path = content}          the context: a text, or a table {content, mode, uid, gid, link, twin,
                                  mtime, xattrs, archive, compression, size}; a path that ends with / is
                                  a directory
before = [{tag, dockerfile}]      images that are built first, of the same context
args, secrets                     --build-arg NAME=VALUE, --secret id=NAME with that content
options = []                      other options of `build`, in words that all engines know
tree = '''...'''                  what is new or other than in the base image: lines of `trees`
config = {}                       what the image's config has besides what the base's has; "" takes a key away
history = []                      created_by of what the Dockerfile adds, bottom first
output, silent = []               texts that the build says, and does not say
warns = []                        texts that Stead says besides
error = "..."                     the build fails and says so (Stead; of other engines only that they fail)
over = "base"                     what the tree is relative to, where the last FROM does not show it
differs = {engine = "reason"}     the engine's result is another one; docs/build.md explains each reason
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import sys
import tarfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DIRECTORY = Path(__file__).with_name("cases")
#: Of everything in a context that has no time of its own.
MTIME = 1_500_000_000

_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}


@dataclass(frozen=True)
class Case:
    name: str
    theme: str
    dockerfile: str = ""
    dockerfiles: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[Mapping[str, str], ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    tree: str | None = None
    config: Mapping[str, Any] | None = None
    history: tuple[str, ...] | None = None
    output: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    warns: tuple[str, ...] = ()
    error: str = ""
    over: str = ""
    differs: Mapping[str, str] = field(default_factory=dict)

    @property
    def ground(self) -> str:
        """What the tree is told relative to: `base`, or `scratch` unless the last stage is FROM base."""
        stages = re.findall(r"^FROM\s+(?:--\S+\s+)*(\S+)", self.dockerfile, re.MULTILINE | re.IGNORECASE)
        return self.over or ("base" if stages and stages[-1] == "base" else "scratch")


def load() -> list[Case]:
    """Every case. ValueError for a key that none has, a name that two have."""
    found: list[Case] = []
    known = {item.name for item in fields(Case)}
    for path in sorted(DIRECTORY.glob("*.toml")):
        for number, table in enumerate(tomllib.loads(path.read_text())["case"], 1):
            if unknown := set(table) - known:
                raise ValueError(f"{path.name}: case {number}: unknown keys {sorted(unknown)}")
            found.append(
                Case(
                    **{
                        "theme": path.stem,
                        **{
                            key: tuple(value) if isinstance(value, list) else value
                            for key, value in table.items()
                        },
                    }
                )
            )
    names = [(case.theme, case.name) for case in found]
    if len(set(names)) != len(names):
        raise ValueError(
            f"two cases have one name: {sorted({name for name in names if names.count(name) > 1})}"
        )
    return found


def write(case: Case, context: Path) -> None:
    """The case's context."""
    context.mkdir()
    for name, text in {"Dockerfile": case.dockerfile, **case.dockerfiles}.items():
        if text:
            place(context / name, text)
    for name, given in case.files.items():
        place(context / name, {"directory": True} if name.endswith("/") and given == "" else given)
    for folder, folders, names in os.walk(context):
        for name in [*folders, *names]:
            path = os.path.join(folder, name)
            if os.lstat(path).st_mtime > MTIME * 1.1:
                os.utime(path, (MTIME, MTIME), follow_symlinks=False)


def place(path: Path, given: Any) -> None:
    """One file, link or directory."""
    table: dict[str, Any] = {"content": given} if isinstance(given, str) else dict(given)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "link" in table:
        path.symlink_to(table["link"])
    elif "twin" in table:
        path.hardlink_to(path.parent / table["twin"])
        return
    elif table.get("directory") or str(path).endswith("/"):
        path.mkdir(exist_ok=True)
        path.chmod(table.get("mode", 0o755))
    elif "fifo" in table:
        os.mkfifo(path)
        path.chmod(table.get("mode", 0o644))
    else:
        path.write_bytes(content(table))
        path.chmod(table.get("mode", 0o644))
    if "uid" in table or "gid" in table:
        os.chown(path, table.get("uid", 0), table.get("gid", 0), follow_symlinks=False)
        if "mode" in table:
            path.chmod(table["mode"])
    for key, value in table.get("xattrs", {}).items():
        binary = key.startswith("security.")
        os.setxattr(path, key, bytes.fromhex(value) if binary else value.encode(), follow_symlinks=False)
    when = table.get("mtime", MTIME)
    os.utime(path, (when, when), follow_symlinks=False)


def content(table: Mapping[str, Any]) -> bytes:
    if "archive" in table:
        return _COMPRESS[table.get("compression", "tar")](archive(table["archive"]))[: table.get("size")]
    return str(table.get("content", "")).encode()


def archive(members: Mapping[str, Any]) -> bytes:
    """A tar file of `members` in their order, which are written as those of a context are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, given in members.items():
            table: dict[str, Any] = {"content": given} if isinstance(given, str) else dict(given)
            info = tarfile.TarInfo(name.rstrip("/"))
            data = str(table.get("content", "")).encode()
            info.mtime, info.uid, info.gid = (
                table.get("mtime", MTIME),
                table.get("uid", 0),
                table.get("gid", 0),
            )
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, table.get("mode", 0o755)
            elif "link" in table:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, table["link"], 0o777
            elif "twin" in table:
                first = tar.getmember(table["twin"])
                info.type, info.linkname, info.mode = tarfile.LNKTYPE, first.name, first.mode
                info.uid, info.gid, info.mtime = first.uid, first.gid, first.mtime
            else:
                info.mode, info.size = table.get("mode", 0o644), len(data)
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return buffer.getvalue()
