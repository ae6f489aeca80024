"""Effects: copying what was selected into an open root directory, as COPY and ADD do.

The destination is resolved within the root, links of the image included. What is made on the way there is
0755; what exists keeps what it is, but for directories below a copied one, which become like their source.
Files are opened relative to directories that were opened without following links: a link that is swapped in
meanwhile leads nowhere. Whoever gives the root decides what it is: an overlay of a layer in the making.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.build import places, tree
from runtime.build.modes import ModeChange
from runtime.build.selection import Picked, Source

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Files up to so many bytes are read and written in one piece; larger ones are copied by the kernel.
SMALL = 256 * 1024
_CHUNK = 16 << 20


class CopyError(Exception):
    """Why it cannot be copied, in one clause that names the place."""


@dataclass(slots=True)
class Copying:
    """How things are copied into `root`. `owner` None: as in the source. `changed` becomes true when a file
    is not any more what it was when it was selected."""

    root: int
    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None
    replace: bool = False  # --link: nothing of the layers below is in the way
    changed: bool = False
    _links: dict[tuple[int, int], str] = field(default_factory=dict)

    def directories(self, path: str) -> str:
        """The directory `path` of the root, made where it is missing. Returns where it really is."""
        resolved = places.resolve(self.root, path)
        try:
            places.make_directories(self.root, resolved, self._own)
        except (NotADirectoryError, FileExistsError) as error:
            raise CopyError(f"{error.filename} is not a directory") from None
        return resolved

    def _own(self, fd: int) -> None:
        if self.owner is not None:
            os.fchown(fd, *self.owner)

    def into(self, destination: str, source: Source, picked: Sequence[Picked]) -> None:
        """Copy all of `picked` to the absolute path `destination`, a directory if it ends with a slash."""
        folder = destination.endswith("/")
        above = destination if folder else destination.rpartition("/")[0]
        if picked:
            self.directories(above)
        for item in picked:
            place = places.resolve(self.root, destination)
            there = places.status(self.root, place)
            if item.keeps_path:
                self.directories(place)
                self._with_path(source, item, place)
            elif item.is_directory:
                if there is not None and not places.is_directory(there):
                    raise CopyError(f"/{place} is not a directory")
                self.directories(place)
                self.contents(source, item, place)
            else:
                if folder or places.is_directory(there):
                    place = _join(place, item.name)
                self._single(source, item, place)

    def empty(self, destination: str) -> str | None:
        """Where the directory `destination` really is, made where it is missing and part of the layer from
        now on, if there is nothing in it; None otherwise."""
        self.directories(destination.rpartition("/")[0])
        place = self.directories(destination)
        fd = places.open_directory(self.root, place)
        try:
            if os.listdir(fd):
                return None
            found = os.fstat(fd)
            os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))  # overlayfs copies up what is changed
        finally:
            os.close(fd)
        return place

    def _with_path(self, source: Source, item: Picked, place: str) -> None:
        """--parents: new directories of the path have what their source has."""
        base = item.start.removesuffix(item.name).rstrip("/")
        entries = [*item.above, (item.name, item.status)] if item.is_directory else list(item.above)
        with places.Walkway(self.root, place) as target, places.Walkway(source.root, base) as origin:
            made = []
            for path, status in entries:
                parent, _, name = path.rpartition("/")
                if self._make(target.at(parent), name, _join(place, path)):
                    made.append((path, status))
            if item.is_directory:
                self.contents(source, item, _join(place, item.name))
            else:
                self._single(source, item, _join(place, item.name))
            for path, status in reversed(made):
                self._finish_directory(target.at(path), origin.at(path), status)

    def _single(self, source: Source, item: Picked, place: str) -> None:
        parent, _, name = place.rpartition("/")
        above, _, inner = item.start.rpartition("/")
        with places.Walkway(self.root, parent) as target, places.Walkway(source.root, above) as origin:
            self._entry(origin.at(""), inner, target.at(""), name, item.status, place)

    def contents(self, source: Source, item: Picked, place: str) -> None:
        """What is in the directory, into the one at `place`."""
        made: list[tuple[str, os.stat_result]] = []
        with places.Walkway(self.root, place) as target, places.Walkway(source.root, item.start) as origin:
            for path, status in item.below:
                parent, _, name = path.rpartition("/")
                full = _join(place, path)
                if stat.S_ISDIR(status.st_mode):
                    self._make(target.at(parent), name, full)
                    made.append((path, status))
                else:
                    self._entry(origin.at(parent), name, target.at(parent), name, status, full)
            for path, status in reversed(made):  # times last: what is made within changes them
                self._finish_directory(target.at(path), origin.at(path), status)

    # ------------------------------------------------------------ one thing

    def _make(self, directory: int, name: str, place: str) -> bool:
        """Returns whether the directory is new."""
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
            return True
        except FileExistsError:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                return False
            if not self.replace:
                raise CopyError(f"/{place} is not a directory") from None
            os.unlink(name, dir_fd=directory)
            os.mkdir(name, 0o700, dir_fd=directory)
            return True

    def _finish_directory(self, target: int, origin: int, status: os.stat_result) -> None:
        os.fchown(target, *self._owner(status))
        os.fchmod(target, self._mode(status, True))
        for name in tree.xattr_names(origin):
            _set_xattr(target, name, os.getxattr(origin, name))
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _entry(
        self, origin: int, name: str, target: int, new: str, status: os.stat_result, place: str
    ) -> None:
        """One thing that is no directory, in the place of whatever is there."""
        mode = status.st_mode
        if stat.S_ISREG(mode):
            key = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and key in self._links:
                self._make_room(target, new, place)
                self._hard_link(self._links[key], target, new)
                return
            self._file(origin, name, target, new, status, place)
            if status.st_nlink > 1:
                self._links[key] = place
            return
        self._make_room(target, new, place)
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=origin), new, dir_fd=target)
        else:
            os.mknod(new, stat.S_IFMT(mode) | 0o600, status.st_rdev, dir_fd=target)
        os.chown(new, *self._owner(status), dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            os.chmod(new, self._mode(status, False), dir_fd=target)
        times = (status.st_mtime_ns, status.st_mtime_ns)
        os.utime(new, ns=times, dir_fd=target, follow_symlinks=False)

    def _hard_link(self, first: str, target: int, new: str) -> None:
        parent, _, name = first.rpartition("/")
        directory = places.open_directory(self.root, parent)
        try:
            os.link(name, new, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(directory)

    def _make_room(self, target: int, name: str, place: str) -> None:
        try:
            found = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise CopyError(f"/{place} is a directory, and cannot be replaced by a file")
        os.unlink(name, dir_fd=target)

    def _file(
        self, origin: int, name: str, target: int, new: str, status: os.stat_result, place: str
    ) -> None:
        reader = os.open(name, _READ, dir_fd=origin)
        try:
            found = os.fstat(reader)
            if not stat.S_ISREG(found.st_mode):
                raise CopyError(f"{name} is not a file any more")
            self.changed |= _stamp(found) != _stamp(status)
            mode = self._mode(status, False)
            try:
                writer = os.open(new, _CREATE, mode & 0o777, dir_fd=target)
            except FileExistsError:
                self._make_room(target, new, place)
                writer = os.open(new, _CREATE, mode & 0o777, dir_fd=target)
            try:
                _pour(reader, writer, found.st_size)
                owner = self._owner(status)
                if owner != (0, 0):
                    os.fchown(writer, *owner)
                os.fchmod(writer, mode)  # after chown(2), which takes set-ID bits away, and beyond the umask
                for key in tree.xattr_names(reader):
                    _set_xattr(writer, key, os.getxattr(reader, key))
                os.utime(writer, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    def _owner(self, status: os.stat_result) -> tuple[int, int]:
        return self.owner if self.owner is not None else (status.st_uid, status.st_gid)

    def _mode(self, status: os.stat_result, is_dir: bool) -> int:
        bits = stat.S_IMODE(status.st_mode)
        return bits if self.mode is None else self.mode(bits, is_dir)


def _join(above: str, name: str) -> str:
    return f"{above}/{name}" if above else name


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _pour(reader: int, writer: int, size: int) -> None:
    """All that there is to read: a file may have grown, or say that it is empty while it is not (procfs)."""
    if size <= SMALL:
        while piece := os.read(reader, size + 1):
            view = memoryview(piece)
            while view:
                view = view[os.write(writer, view) :]
            if len(piece) <= size:
                return
    try:
        while os.copy_file_range(reader, writer, _CHUNK):
            pass
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ETXTBSY):
            raise
    while os.sendfile(writer, reader, None, _CHUNK):
        pass


def _set_xattr(fd: int, name: str, value: bytes) -> None:
    """One that the file system below does not take is left out, as docker does."""
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise
