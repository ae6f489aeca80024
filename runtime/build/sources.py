"""Effects: where a build takes files from: the build context, named contexts, stages and images.

A context is opened when the first step wants it: a directory of the host's, a repository, an archive. What
its ignore file leaves out is as if it were not there (the Dockerfile and the ignore file themselves are read
in any case)."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.build import remote, selection, tree
from runtime.build.cache import Cache
from runtime.build.ignore import Ignore, IgnoreError
from runtime.build.request import STDIN, BuildRequest
from runtime.build.selection import Picked, Source
from runtime.build.workspace import DIRECTORY, Workspace
from runtime.faults import Fault
from runtime.paths import Paths

#: Bytes of a Dockerfile or an ignore file.
MAX_TEXT = 16 << 20


@dataclass(slots=True)
class Opened:
    """A context. `source` is what steps see, `directory` its root on the host where that is a lasting one,
    `ignore` the path of its ignore file. `asked` are the sources that steps had of it, with their sums."""

    source: Source
    root: int
    directory: str = ""
    ignore: str = ""
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, path: str) -> bytes | None:
        """A file of the context whether it is ignored or not, its links followed within it; None: not
        there."""
        from runtime.linux import openat2

        try:
            fd = openat2.open_in_root(self.root, path, os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read(MAX_TEXT + 1)


class Sources:
    """Of one build. Thread-safe. To be closed."""

    def __init__(self, paths: Paths, request: BuildRequest, cache: Cache, work: Workspace | None) -> None:
        self._paths, self._request, self._cache, self._work = paths, request, cache, work
        self._lock = threading.RLock()
        self._open: dict[str, Opened] = {}
        self._stages: dict[str, Source] = {}

    # ------------------------------------------------------------ contexts

    def context(self, name: str = "") -> Opened:
        """The named context, or the build's own. Fault request-invalid where it cannot be had."""
        with self._lock:
            if name not in self._open:
                where = self._request.contexts[name] if name else self._request.context
                self._open[name] = self._opened(name, where)
            return self._open[name]

    def _opened(self, name: str, where: str) -> Opened:
        what = f"the context {name}" if name else "the build context"
        if not where:
            raise Fault(
                "request-invalid", "build", self._request.label, f"there is no {what.removeprefix('the ')}"
            )
        directory, lasting = self._directory(where)
        try:
            root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            cause = f"{what} {where}: {(error.strerror or str(error)).lower()}"
            raise Fault("request-invalid", "build", self._request.label, cause) from error
        memory = tree.memory_of(self._paths.root / DIRECTORY / "sums", root) if lasting else None
        opened = Opened(Source(root, tree.Sums(root, memory), what, None, fenced=True), root)
        opened.directory = str(directory) if lasting else ""
        ignore = self._ignore(opened, name)
        if ignore is not None:
            opened.source = Source(root, opened.source.sums, what, ignore, fenced=True)
        return opened

    def _directory(self, where: str) -> tuple[Path, bool]:
        """Where the context's files are, and whether that is a place that later builds find again."""
        repository = remote.repository(where)
        if repository is None and where != STDIN and not remote.is_url(where):
            return Path(where), True
        if self._work is None:
            cause = f"what {where} has is known only by building it"
            raise Fault("request-invalid", "build", self._request.label, cause)
        if repository is not None:
            from runtime.build import git

            mirrors = git.Git(self._paths.root / DIRECTORY / "git")
            commit = mirrors.commit(repository)
            return mirrors.tree(self._work, repository, commit), False
        return self._streamed(self._work, where), False

    def _streamed(self, work: Workspace, where: str) -> Path:
        """What comes in one piece: an archive, or a Dockerfile alone."""
        from runtime.build import archive

        if where == STDIN:
            fd = archive.spool(work, sys.stdin.buffer, "the build context")
        else:
            from runtime.build import fetch

            fetcher = fetch.Fetcher(self._cache, work.scratch)
            _, fd = fetcher.fetch(where, "")
        try:
            with os.fdopen(os.dup(fd), "rb") as file:
                if archive.is_archive(file):
                    return archive.unpack(work, fd, "the build context")
                file.seek(0)
                place = work.new()
                (place / self._request.dockerfile.lstrip("/")).write_bytes(file.read(MAX_TEXT + 1))
                return place
        finally:
            os.close(fd)

    def _ignore(self, opened: Opened, name: str) -> tree.Filter | None:
        data, file = None, f"{self._request.dockerfile}.dockerignore"
        if not name:
            if os.path.isabs(file):
                data = Path(file).read_bytes() if Path(file).is_file() else None
            else:
                data = opened.read(file)
        if data is None:
            file = ".dockerignore"
            data = opened.read(file)
        if not data:
            return None
        opened.ignore = file if os.path.isabs(file) else f"{opened.directory}/{file}"
        try:
            parsed: tree.Filter = Ignore.parse(data)
        except IgnoreError as error:
            cause = f"{os.path.basename(file)}: {error}"
            raise Fault("request-invalid", "build", self._request.label, cause) from error
        return parsed

    def dockerfile(self) -> tuple[bytes, str]:
        """The bytes of the Dockerfile, and what messages call it. Fault request-invalid when it is not
        there."""
        request = self._request
        name = request.dockerfile_name or request.dockerfile
        if request.dockerfile_text is not None:
            return request.dockerfile_text, name
        if os.path.isabs(request.dockerfile):
            path = Path(request.dockerfile)
            data = path.read_bytes() if path.is_file() else None
        else:
            data = self.context().read(request.dockerfile)
            if data is None and request.dockerfile == "Dockerfile":
                data = self.context().read("dockerfile")
        if data is None:
            cause = f"{request.dockerfile}: no such file"
            raise Fault("request-invalid", "build", request.label, cause, "name it with --file")
        if len(data) > MAX_TEXT:
            cause = f"{request.dockerfile} has more than {MAX_TEXT} bytes"
            raise Fault("request-invalid", "build", request.label, cause)
        return data, name

    # ------------------------------------------------------------ stages and images

    def layers(self, chain: Sequence[str], name: str) -> Source:
        """What a stage or an image shows."""
        assert self._work is not None
        key = chain[-1] if chain else ""
        with self._lock:
            if key not in self._stages:
                root = self._work.base(chain)
                self._stages[key] = Source(root, tree.Sums(root), name, None, owner=True)
            return self._stages[key]

    def summed(
        self, chain: Sequence[str], name: str, pattern: str, parents: bool, exclude: Sequence[str]
    ) -> list[list[str]]:
        """What `pattern` means among layers, as `selection.digest` tells it; looked up once for all
        builds."""
        top = chain[-1] if chain else ""
        wanted = json.dumps([pattern, parents, list(exclude)])
        known = self._cache.sum(top, wanted) if top else ""
        if known:
            found: list[list[str]] = json.loads(known)
            return found
        source = self.layers(chain, name)
        picked = selection.pick(source, pattern, parents=parents, exclude=exclude)
        with self._lock:
            found = selection.digest(source, picked)
        if top:
            self._cache.keep_sum(top, wanted, json.dumps(found))
        return found

    def picked(
        self, source: Source, pattern: str, parents: bool, exclude: Sequence[str]
    ) -> tuple[list[Picked], list[list[str]]]:
        """What `pattern` means in a context, and the sum of it."""
        with self._lock:
            found = selection.pick(source, pattern, parents=parents, exclude=exclude)
            sums = selection.digest(source, found)
            asked: dict[str, Any] = {"pattern": pattern, "parents": parents, "exclude": list(exclude)}
            for opened in self._open.values():
                if opened.source is source:
                    opened.asked[json.dumps(asked)] = {**asked, "sums": sums}
            return found, sums

    def told(self) -> list[dict[str, Any]] | None:
        """What steps had of contexts, for a recipe; None where a context is no lasting directory."""
        found = []
        for opened in self._open.values():
            if not opened.directory:
                return None
            picked = list(opened.asked.values())
            found.append({"directory": opened.directory, "ignore": opened.ignore, "picked": picked})
        return found

    def files(self) -> list[str]:
        """The paths of the Dockerfile and of every ignore file that there is or could be."""
        request, found = self._request, []
        for name, opened in self._open.items():
            found.append(f"{opened.directory}/.dockerignore")
            if not name:
                dockerfile = os.path.join(opened.directory, request.dockerfile)
                found += [dockerfile, f"{dockerfile}.dockerignore", f"{opened.directory}/dockerfile"]
        return found

    def save(self) -> None:
        """Keep the sums of lasting contexts."""
        with self._lock:
            for opened in self._open.values():
                opened.source.sums.save()

    def close(self) -> None:
        self.save()
        for opened in self._open.values():
            os.close(opened.root)
        self._open.clear()
