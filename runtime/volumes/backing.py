"""Effects: what lies behind a volume's directory: mounts, files with a file system, project quotas.

mount(8) rather than mount(2), since it knows the helpers of network file systems (mount.nfs) and loop
devices, which are given back when the last user of the mount is gone (losetup(8), autoclear).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from runtime.faults import Fault, faults
from runtime.linux import mounts, quota, trees
from specs.volumes import Backing

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Seconds for a mount, and for making a file system; a server that does not answer is tried again later.
MOUNT_TIMEOUT = 60.0
MKFS_TIMEOUT = 300.0
#: Ids of projects are ours from here on, 2^20 of them: other tools count from 1 or from 2^24 on.
FIRST_PROJECT = 1_398_800_000
_PROJECTS = 1 << 20
_TRIES = 1000

_MKFS: dict[str, tuple[str, ...]] = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "root_owner=0:0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C"}
#: What mount(8) says when the kernel did not like something.
_VAGUE = "wrong fs type, bad option"
#: The file system of a loop volume, in the volume's home.
LOOP_FILE = "_image"


def mount(backing: Backing, data: Path, name: str) -> None:
    """Mount on `data` what `backing` says; it has `backing.mounted`. Fault volume-refused with the reason."""
    if backing.kind == "loop":
        file = data.parent / LOOP_FILE
        _make_loop(backing, file, name)
        flags = (*backing.flags, "loop")
        _mount(backing.type, str(file), flags, data, name)
        return
    _mount(backing.type, backing.device, backing.flags, data, name)


def unmount(data: Path) -> None:
    """Repeatable. Whatever still holds the mount keeps it until it ends."""
    if mounts.is_mounted(data):
        mounts.unmount(data)


def _mount(kind: str, device: str, flags: Sequence[str], data: Path, name: str) -> None:
    options = ("-o", ",".join(flags)) if flags else ()
    problem = _run("mount", "-t", kind, *options, "--", device, str(data), timeout=MOUNT_TIMEOUT)
    if not problem:
        return
    said = problem.removeprefix(f"mount: {data}: ")
    if _VAGUE in said:
        said = _kernel_words(kind, device, flags) or said.partition(", missing codepage")[0]
    raise Fault("volume-refused", "mount volume", name, said, "see its driver_opts")


def _kernel_words(kind: str, device: str, flags: Sequence[str]) -> str:
    """What the kernel itself says of these options, for a file system that has the new mount API."""
    options = [
        (key, value if given else None) for key, given, value in (word.partition("=") for word in flags)
    ]
    general = {"ro", "rw", "loop", "nosuid", "nodev", "noexec", "noatime", "relatime", "defaults"}
    try:
        fd = mounts.new_filesystem(
            kind, [("source", device), *((key, value) for key, value in options if key not in general)]
        )
    except OSError as error:
        said = re.search(r"\((?:[ewi] )?(.*)\)$", error.strerror or "")  # after a letter: how bad it is
        return said[1] if said else str(error.strerror or "")
    os.close(fd)
    return ""


# ---------------------------------------------------------------- files with a file system


def _make_loop(backing: Backing, file: Path, name: str) -> None:
    """Made aside and renamed, so that there is none or a whole one. A larger size makes it grow (ext4)."""
    with faults("make file system of volume", name):
        if file.exists():
            if os.stat(file).st_size < backing.size:
                _grow(backing, file, name)
            return
        new = file.with_name(f"{LOOP_FILE}.new")
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, backing.size)
            command, *words = _MKFS[backing.type]
            problem = _run(command, *words, str(new), timeout=MKFS_TIMEOUT)
            if problem:
                new.unlink()
                raise Fault("volume-refused", "make file system of volume", name, problem, _package(command))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(new, file)
        _sync_directory(file.parent)


def _grow(backing: Backing, file: Path, name: str) -> None:
    if backing.type != "ext4":
        cause = f"a file with {backing.type} cannot grow"
        raise Fault("volume-refused", "grow volume", name, cause, "make another volume and copy the data")
    os.truncate(file, backing.size)
    for command in (("e2fsck", "-f", "-p", str(file)), ("resize2fs", str(file))):
        problem = _run(*command, timeout=MKFS_TIMEOUT, fine=(0, 1))  # 1: e2fsck mended something
        if problem:
            raise Fault("volume-refused", "grow volume", name, problem)


def _package(command: str) -> str:
    packages = {"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs"}
    return "" if shutil.which(command, path=_PATH) else f"install {packages[command]}"


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _run(*words: str, timeout: float, fine: tuple[int, ...] = (0,)) -> str:
    """What the command complained about, in one line; empty when it did what it should."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            env=_ENVIRONMENT,
            check=False,
        )
    except FileNotFoundError:
        return f"this machine has no {words[0]}"
    except subprocess.TimeoutExpired:
        return f"{words[0]} did not end within {timeout:g} s"
    if done.returncode in fine:
        return ""
    text = (done.stderr + done.stdout).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and "dmesg(1)" not in line]
    return "; ".join(lines)[:1000].rstrip(".") or f"{words[0]} ended with code {done.returncode}"


# ---------------------------------------------------------------- project quotas


def limit(home: Path, size: int, name: str) -> None:
    """At most `size` bytes below `home`. Fault volume-refused where its file system has no quotas."""
    fd = quota.open_directory(home)
    try:
        project = quota.project_of(fd) or _free_project(fd, home)
        quota.set_limit(fd, project, size)
        if quota.project_of(fd) != project:
            quota.set_project(fd, project)
            _adopt(home, project)
    except OSError as error:
        cause = f"the file system of {home.parent} has no project quotas ({error.strerror})".lower()
        hint = 'mount it with prjquota, or write loop = "ext4"'
        raise Fault("volume-refused", "limit volume", name, cause, hint) from error
    finally:
        os.close(fd)


def unlimit(home: Path) -> None:
    """Before `home` goes: its project is free for others. Nothing where it has none."""
    try:
        fd = quota.open_directory(home)
    except OSError:
        return
    try:
        project = quota.project_of(fd)
        if FIRST_PROJECT <= project < FIRST_PROJECT + _PROJECTS:
            quota.set_limit(fd, project, 0)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.ESRCH, errno.EINVAL):
            raise
    finally:
        os.close(fd)


def _free_project(fd: int, home: Path) -> int:
    """An id that nothing on this file system has a limit for or files of."""
    start = int.from_bytes(hashlib.sha256(os.fsencode(home)).digest()[:4], "big")
    for attempt in range(_TRIES):
        project = FIRST_PROJECT + (start + attempt) % _PROJECTS
        try:
            if quota.usage(fd, project) == (0, 0):
                return project
        except OSError as error:
            if error.errno != errno.ENOENT:  # xfs: nobody ever had it
                raise
            return project
    raise OSError(errno.ENOSPC, f"no free project after {_TRIES} tries")


def _adopt(home: Path, project: int) -> None:
    """What was made before the directory had its project counts, too, and nothing that a container shows
    instead: a file of the host below a link."""
    for directory, names in trees.walk(home):
        quota.set_project(directory, project)
        for name in names:
            try:
                if not stat.S_ISREG(os.lstat(name, dir_fd=directory).st_mode):
                    continue
                fd = os.open(name, _FILE, dir_fd=directory)
            except FileNotFoundError:
                continue
            try:
                quota.set_project(fd, project)
            finally:
                os.close(fd)
