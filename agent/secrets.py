"""Effects: the bytes of the secrets and configs that a revision names: read, decrypted, kept by the runtime.

What comes back is the same Desired with a keyed digest in each container that has one; the bytes go no
further than the store. Of a revision that was good before, the digests are known, and its files are not
looked at: it comes back without its source and without the keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.sources.revision import Revision
from runtime.observations import Observed
from runtime.paths import Paths
from runtime.secrets import MAX_CONFIG, MAX_SECRET, SecretStore
from specs.desired import Desired, DesiredFile, DesiredImage
from specs.fingerprint import digests, refilled

AGE = ".age"
#: (path, size, mtime, inode) of files
Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """`identities` are files with age identities or SSH keys; `directory` has what is external. Without
    `paths` it is only looked whether the files are there."""

    identities: tuple[str, ...] = ()
    directory: str = ""
    paths: Paths | None = None


@dataclass(frozen=True, slots=True)
class Filled:
    """`digests` by `kind full/name`; `problems` are lines file:line:column: text."""

    desired: Desired
    digests: Mapping[str, str]
    problems: tuple[str, ...] = ()


class _Unusable(Exception):
    """Why a secret cannot be had. Its text is for people and has nothing of the bytes."""


def fill(desired: Desired, revision: Revision, keys: Keys, *, kept: bool = False) -> Filled:
    """Raises Fault where the store cannot be written."""
    used = {f"{item.kind} {item.name}" for one in desired.containers.values() for item in one.files}
    work = _Work(revision, keys)
    known = revision.secrets if kept else {}
    digests: dict[str, str] = {}
    problems: list[str] = []
    for key, file in sorted(desired.files.items()):
        try:
            if key in known and keys.paths is None:
                digests[key] = known[key]
            elif key in used and keys.paths is not None:
                digests[key] = work.digest(file, known.get(key, ""))
            elif not kept:
                work.check(file)
        except _Unusable as error:
            where = f"{file.kind}.{file.name.rpartition('/')[2]}"
            at = file.place
            prefix = f"{at.file}:{at.line}:{at.column}: " if at else ""
            problems.append(f"{prefix}{where}: {error}")
    containers = {
        name: refilled(one, digests) if one.files else one for name, one in desired.containers.items()
    }
    images = desired.images
    if not kept and keys.paths is not None:
        images = {name: work.built(image, problems) for name, image in images.items()}
    return Filled(replace(desired, containers=containers, images=images), digests, tuple(problems))


def plain_files(desired: Desired) -> set[str]:
    """Files of the source whose bytes are secrets in the clear: they are not kept with the revision."""
    secret = (file.file for file in desired.files.values() if file.kind == "secret")
    return {file for file in secret if file and not file.endswith(AGE)}


def signature(desired: Desired, revision: Revision, keys: Keys) -> Signature:
    """What tells that a file changed which no source watches: those on the node, and those of a source that
    are no files of its revision."""
    found = []
    for file in desired.files.values():
        if file.external or (file.file and file.file not in revision.files):
            path = _path(file, revision, keys)
            try:
                info = os.stat(path)
                found.append((path, info.st_size, info.st_mtime_ns, info.st_ino))
            except OSError:
                found.append((path, -1, 0, 0))
    return tuple(sorted(found))


def sweep(paths: Paths, kept: Iterable[set[str]], observed: Observed, now: float) -> None:
    """What neither a container nor a `kept` revision has goes after a while."""
    needed = set().union(*kept, *(digests(one.facets) for one in observed.containers.values()))
    SecretStore(paths).collect(needed, now=now)


def _path(file: DesiredFile, revision: Revision, keys: Keys) -> str:
    if file.external:
        return os.path.join(keys.directory, file.external)
    return os.path.join(revision.tree or revision.root, file.file)


class _Work:
    def __init__(self, revision: Revision, keys: Keys) -> None:
        self.revision, self.keys = revision, keys
        self.store = None if keys.paths is None else SecretStore(keys.paths)

    def digest(self, file: DesiredFile, known: str) -> str:
        assert self.store is not None
        if known and self.store.has(known):
            return known
        return self.store.put(self._clear(file))

    def check(self, file: DesiredFile) -> None:
        """Whether it is there; what is external is looked at on its node only."""
        if file.file and file.file not in self.revision.files:
            self._stat(file, _path(file, self.revision, self.keys))

    def built(self, image: DesiredImage, problems: list[str]) -> DesiredImage:
        """A build gets an encrypted secret in the clear, in memory."""
        if image.build is None or not any(item.file.endswith(AGE) for item in image.build.secrets):
            return image
        found = []
        for item in image.build.secrets:
            if not item.file.endswith(AGE):
                found.append(item)
                continue
            try:
                with open(item.file, "rb") as stream:
                    data = self._decrypted(stream.read(MAX_SECRET * 2), os.path.basename(item.file))
            except OSError as error:
                problems.append(f"cannot read secret {item.id}: {error.strerror}".lower())
                continue
            except _Unusable as error:
                problems.append(f"{image.place}: secret {item.id} of a build: {error}")
                continue
            found.append(replace(item, file="", value=data.decode("utf-8", "surrogateescape")))
        return replace(image, build=replace(image.build, secrets=tuple(found)))

    # ------------------------------------------------------------ bytes

    def _clear(self, file: DesiredFile) -> bytes:
        limit = MAX_SECRET if file.kind == "secret" else MAX_CONFIG
        data = self._bytes(file, limit)
        if len(data) > limit:
            raise _Unusable(f"more than {limit // 1024} KiB")
        return data

    def _bytes(self, file: DesiredFile, limit: int) -> bytes:
        if file.content is not None:
            return file.content.encode("utf-8", "surrogateescape")
        name = file.external or file.file
        data = self.revision.files.get(file.file) if file.file else None
        if data is None:
            path = _path(file, self.revision, self.keys)
            if file.external and not os.path.exists(path) and os.path.exists(path + AGE):
                name, path = name + AGE, path + AGE
            self._stat(file, path)
            with open(path, "rb") as stream:
                data = stream.read(limit * 2 + 1)
        return self._decrypted(data, name) if name.endswith(AGE) else data

    def _stat(self, file: DesiredFile, path: str) -> None:
        """That it is a file, and of the source one that is in it."""
        if file.external and not self.keys.directory:
            raise _Unusable("the settings name no directory of secrets")
        if not os.path.isfile(path):
            where = self.keys.directory if file.external else "the source"
            raise _Unusable(f"no file {file.external or file.file!r} in {where}")
        tree = os.path.realpath(self.revision.tree or self.revision.root)
        if not file.external and os.path.commonpath([os.path.realpath(path), tree]) != tree:
            raise _Unusable(f"{file.file!r} is a link that leaves the source")

    def _decrypted(self, data: bytes, name: str) -> bytes:
        import pyrage

        identities = _identities(self.keys.identities, pyrage)
        if not identities:
            tried = ", ".join(self.keys.identities) or "no file"
            raise _Unusable(f"{name!r} is encrypted, and there is no identity to decrypt it ({tried})")
        try:
            return bytes(pyrage.decrypt(data, identities))
        except pyrage.DecryptError as error:
            if "No matching keys" in str(error):
                raise _Unusable(
                    f"no identity decrypts {name!r} ({', '.join(self.keys.identities)})"
                ) from None
            raise _Unusable(f"cannot decrypt {name!r}: it is no whole age file") from None


def _identities(paths: tuple[str, ...], pyrage: Any) -> list[Any]:
    """Those of the files that are there: age's own, one a line, or one SSH key a file."""
    found: list[Any] = []
    for path in paths:
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _Unusable(f"cannot read identities {path}: {error.strerror}".lower()) from error
        try:
            if data.startswith(b"-----BEGIN"):
                found.append(pyrage.ssh.Identity.from_buffer(data))
                continue
            lines = (line.strip() for line in data.decode().splitlines())
            found += [
                pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")
            ]
        except (pyrage.IdentityError, UnicodeDecodeError):
            raise _Unusable(f"cannot read identities {path}: no age identity and no SSH key") from None
    return found
