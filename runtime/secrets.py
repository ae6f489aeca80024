"""Effects: the bytes of secrets and configs: kept encrypted under root, in the clear on a tmpfs only.

What a container is to have as a file is kept under `root/secrets`, encrypted with age to an identity of this
machine's own, which lies beside it (mode 0600): so a reboot needs neither the source nor its keys, and no
plain text is on a disk. A piece is called by a keyed digest: whoever sees it in a record, a plan or a journal
can tell that it changed, and cannot try guesses against it.

In the clear the pieces of one container are on a tmpfs of its own at `run/containers/<id>/secrets` (0700),
each with the owner and mode that it has inside, and are bound from there. It goes when the container is
cleared; a restart by the shim finds it as it was.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from runtime.faults import Fault, faults
from runtime.ids import IdRange
from runtime.linux import libc, mounts
from runtime.paths import Paths, write_atomically
from runtime.wishes import FileRequest

#: Bytes of one secret, as Docker has it, and of one config.
MAX_SECRET, MAX_CONFIG = 500 * 1024, 1000 * 1024
#: Seconds that a piece is kept after it was asked for last, when no container and no revision needs it.
KEEP = 30 * 86400.0
_PR_SET_DUMPABLE = 4
_SUFFIX = ".age"


class SecretStore:
    """Thread-safe, and safe beside other processes with the same root: files are written whole, and those of
    one name have one content."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._directory = paths.root / "secrets"
        self._identity: tuple[Any, bytes] | None = None

    def put(self, data: bytes) -> str:
        """Keep it; its keyed digest. Durable when it returns."""
        identity, key = self._own()
        digest = hmac.new(key, data, hashlib.sha256).hexdigest()[:32]
        if not self.has(digest):
            import pyrage

            sealed = pyrage.encrypt(data, [identity.to_public()])
            with faults("keep secret", digest):
                write_atomically(self._file(digest), sealed)
        return digest

    def has(self, digest: str) -> bool:
        """Whether it is kept, and may be for KEEP more seconds."""
        try:
            os.utime(self._file(digest))
        except OSError:
            return False
        return True

    def get(self, digest: str, name: str) -> bytes:
        """Fault secret-lost, which names `name`."""
        import pyrage

        identity, key = self._own()
        try:
            data = bytes(pyrage.decrypt(self._file(digest).read_bytes(), [identity]))
        except (OSError, pyrage.DecryptError) as error:
            cause = "it is not kept any more" if isinstance(error, OSError) else "it cannot be decrypted"
            raise Fault("secret-lost", "read secret", name, cause, "bring its source again") from None
        if hmac.new(key, data, hashlib.sha256).hexdigest()[:32] != digest:
            raise Fault("secret-lost", "read secret", name, "it is damaged", "bring its source again")
        return data

    def collect(self, needed: Collection[str], *, now: float) -> None:
        """Remove what is not needed and was not asked for in KEEP seconds."""
        if not self._directory.is_dir():
            return
        for entry in list(os.scandir(self._directory)):
            digest, suffix = os.path.splitext(entry.name)
            if suffix == _SUFFIX and digest not in needed and entry.stat().st_mtime < now - KEEP:
                Path(entry.path).unlink(missing_ok=True)

    def _file(self, digest: str) -> Path:
        return self._directory / f"{digest}{_SUFFIX}"

    def _own(self) -> tuple[Any, bytes]:
        """(identity of this machine, key of its digests), made when they are first needed. From then on no
        memory of this process goes into a core dump: prctl(2)."""
        if self._identity is None:
            import pyrage

            libc.prctl(_PR_SET_DUMPABLE, 0, subject="PR_SET_DUMPABLE")
            with faults("make key of", "secrets"):
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                text = _read_or_make(self._directory / "identity", pyrage)
            identity = pyrage.x25519.Identity.from_str(text)
            self._identity = identity, hashlib.sha256(b"stead digest " + text.encode()).digest()
        return self._identity


def _read_or_make(path: Path, pyrage: Any) -> str:
    """What is there holds: the first of several processes makes it (link(2) does not replace)."""
    if not path.exists():
        new = path.with_name(f".identity.{os.getpid()}.{time.monotonic_ns()}.tmp")
        write_atomically(new, str(pyrage.x25519.Identity.generate()).encode())
        try:
            os.link(new, path)
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return path.read_text().strip()


# ---------------------------------------------------------------- of one container


def mounted_at(paths: Paths, id: str) -> Path:
    return paths.live(id) / "secrets"


def lay_out(
    paths: Paths,
    id: str,
    files: Sequence[FileRequest],
    store: SecretStore,
    ids: IdRange | None = None,
) -> tuple[dict[str, Any], ...]:
    """The container's tmpfs with its files, and the OCI mounts that show them. Repeatable. With `ids` of its
    own their owners are counted from the first of these on. Fault secret-lost."""
    if not files:
        return ()
    place = mounted_at(paths, id)
    with faults("lay out secrets of", id):
        if not mounts.is_mounted(place):
            _mount(place)
        for number, item in enumerate(files):
            first = ids.first if ids is not None else 0
            _write(place / str(number), item, store.get(item.digest, item.name), first)
    sealed = ["bind", "ro", "nosuid", "nodev", "noexec"]
    return tuple(
        {
            "destination": item.target,
            "type": "bind",
            "source": str(place / str(number)),
            "options": sealed,
            "mapped": True,
        }
        for number, item in enumerate(files)
    )


def _mount(place: Path) -> None:
    """A tmpfs that does not go to swap, where the kernel knows how (noswap, Linux 6.4)."""
    place.mkdir(mode=0o700, exist_ok=True)
    sealed = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
    options: list[tuple[str, str | None]] = [("mode", "0700"), ("size", "64m")]
    try:
        fd = mounts.new_filesystem("tmpfs", [*options, ("noswap", None)], attributes=sealed)
    except OSError:
        fd = mounts.new_filesystem("tmpfs", options, attributes=sealed)
    try:
        mounts.attach(fd, place)
    finally:
        os.close(fd)


def _write(path: Path, item: FileRequest, data: bytes, first: int) -> None:
    """Whoever has it open or bound keeps what was there."""
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchown(file.fileno(), first + item.uid, first + item.gid)
        os.fchmod(file.fileno(), item.mode)
    os.rename(new, path)
