"""Effects: overlay mounts of any number of read-only layers (up to 500, OVL_MAX_STACK of the kernel).

Documentation/filesystems/overlayfs.rst. Where the kernel takes layers one by one (`lowerdir+`, Linux 6.7),
the new
mount API is used. Before, all options must fit one page: then each directory is opened and named by its
descriptor's number, relative to /proc/thread-self/fd, in a thread that has a working directory of its own.
"""

from __future__ import annotations

import errno
import os
import stat
import threading

from runtime.linux import libc, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    StrPath = str | os.PathLike[str]
    Options = Sequence[tuple[str, str | None]]

MAX_LAYERS = 500
#: What is written must be all in the upper directory, which may become a layer of its own: no renamed
#: directory and no copied file leaves its content below, whatever the module's parameters are.
_WHOLE: Options = (("redirect_dir", "off"), ("metacopy", "off"))
_CLONE_FS = 0x200
_PLAIN = 255  # longest value that fsconfig(2) takes as a string


def mount(
    lowers: Sequence[StrPath],
    upper: StrPath | None,
    work: StrPath | None,
    target: StrPath,
    *,
    volatile: bool = False,
    legacy: bool = False,
) -> None:
    """Mount `lowers` (TOP layer first) with `upper` over them at `target`; without `upper` read-only.

    `work` is an empty directory on the filesystem of `upper`. `volatile`: nothing of `upper` is for later, so
    that no fsync(2), and above all no umount(2), waits until that whole filesystem is written to its disk.
    `legacy` forces the way of old kernels.
    Raises OSError(E2BIG) for more than MAX_LAYERS.
    """
    layers = [os.fspath(layer) for layer in lowers]
    if not layers or (upper is None) != (work is None):
        raise ValueError("an overlay needs a lower layer, and upper and work together")
    if len(layers) > MAX_LAYERS:
        raise OSError(errno.E2BIG, f"mount overlay: more than {MAX_LAYERS} layers", os.fspath(target))
    if upper is None and len(layers) == 1:
        mounts.bind(layers[0], target, read_only=True, recursive=False)
        return
    extra: Options = ()
    if work is not None:
        extra = (*_WHOLE, ("volatile", None)) if volatile else _WHOLE
        _forget_volatile(work)
    if legacy:
        _mount_by_number(layers, upper, work, target, extra)
        return
    try:
        _mount_one_by_one(layers, upper, work, target, extra)
    except OSError as error:
        # An unknown parameter is EINVAL. So are other mistakes: where the kernel says which, that beats the
        # error of the second way, which is without words.
        spoke = "mount overlay: " in str(error) and "nknown parameter" not in str(error)
        if error.errno != errno.EINVAL or spoke:
            raise
        _mount_by_number(layers, upper, work, target, extra)


def make_upper(upper: Path, top: Path) -> None:
    """The writable layer. Its own owner and mode are those of `/` in the container, so they come from the
    image's top layer, once: the container may change them."""
    if upper.is_dir():
        return
    new, image = upper.with_name("upper.new"), os.stat(top)
    new.mkdir(mode=0o700, exist_ok=True)
    os.chown(new, image.st_uid, image.st_gid)
    os.chmod(new, stat.S_IMODE(image.st_mode))
    os.rename(new, upper)


def _forget_volatile(work: StrPath) -> None:
    """The kernel refuses a directory that was mounted so, since a crash may have cost some of it. It was for
    nothing that lasts, and was taken down by us: what is there can be used."""
    mark = os.path.join(work, "work", "incompat", "volatile")
    if os.path.isdir(mark):
        from runtime.linux import trees

        trees.remove(mark)


def _mount_one_by_one(
    layers: list[str], upper: StrPath | None, work: StrPath | None, target: StrPath, extra: Options
) -> None:
    fd = detached(layers, upper, work, extra)
    try:
        mounts.attach(fd, target)
    finally:
        os.close(fd)


def detached(
    layers: Sequence[StrPath], upper: StrPath | None, work: StrPath | None, extra: Options = _WHOLE
) -> int:
    """A descriptor of an overlay that is mounted nowhere, and is gone when nothing of it is open any more.

    OSError(EINVAL) where the kernel is older than Linux 6.7.
    """
    opened: list[int] = []

    def name(path: StrPath) -> str:
        """The path itself, or its descriptor where it is too long or holds what overlay would unescape."""
        text = os.path.abspath(path)
        if len(os.fsencode(text)) <= _PLAIN and not any(mark in text for mark in ":\\,"):
            return text
        opened.append(os.open(text, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY))
        return f"/proc/thread-self/fd/{opened[-1]}"

    try:
        options: list[tuple[str, str | None]] = [("source", "overlay")]
        options += [("lowerdir+", name(layer)) for layer in layers]
        if upper is not None and work is not None:
            options += [("upperdir", name(upper)), ("workdir", name(work)), *extra]
        return mounts.new_filesystem("overlay", options)
    finally:
        for number in opened:
            os.close(number)


def _mount_by_number(
    layers: list[str], upper: StrPath | None, work: StrPath | None, target: StrPath, extra: Options
) -> None:
    failures: list[BaseException] = []
    opened: list[int] = []
    destination = os.path.abspath(target)

    def number(path: StrPath) -> str:
        opened.append(os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY))
        return str(opened[-1])

    def run() -> None:
        try:
            libc.call("unshare", _CLONE_FS)
            os.chdir("/proc/thread-self/fd")
            mounts.mount("overlay", destination, "overlay", 0, data)
        except BaseException as error:
            failures.append(error)

    try:
        data = "lowerdir=" + ":".join(number(layer) for layer in layers)
        if upper is not None and work is not None:
            data += f",upperdir={number(upper)},workdir={number(work)}"
            data += "".join(f",{key}" if value is None else f",{key}={value}" for key, value in extra)
        thread = threading.Thread(target=run, name="overlay")
        thread.start()
        thread.join()
    finally:
        for fd in opened:
            os.close(fd)
    if failures:
        raise failures[0]
