"""Effects: SELinux labels of files that containers share with the host: `:z` and `:Z` of a mount.

Nothing is done on a machine without SELinux. Types as container-selinux has them: container_file_t; a label
that is private to one container has two categories of its own (selinux(8), mcs(8)).
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from runtime.linux import trees

ENFORCE = Path("/sys/fs/selinux/enforce")
_XATTR = "security.selinux"
_TYPE = "system_u:object_r:container_file_t:s0"
_CATEGORIES = 1024
#: Relabelling these would keep the host from working.
PROTECTED = frozenset(
    "/ /bin /boot /dev /etc /home /lib /lib64 /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp"
    " /usr /var /var/lib /var/log".split()
)


def enabled() -> bool:
    """Whether the kernel labels files: selinuxfs is mounted."""
    return ENFORCE.exists()


def label(owner: str) -> str:
    """The label for files that all containers may use; with `owner` only that one."""
    if not owner:
        return _TYPE
    number = int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8], "big")
    first, second = number % _CATEGORIES, number // _CATEGORIES % (_CATEGORIES - 1)
    second += second >= first  # two different ones
    low, high = sorted((first, second))
    return f"{_TYPE}:c{low},c{high}"


def relabel(path: str, text: str) -> None:
    """Give `path`, and all below it but what is mounted there, this label. OSError(EPERM) for a directory of
    the system; file systems without labels are left as they are."""
    if os.path.realpath(path) in PROTECTED:
        raise OSError(errno.EPERM, "a directory of the system is not relabelled", path)
    if not os.path.isdir(path):
        _set(path, text, follow=True)
    else:
        for directory, names in trees.walk(os.path.realpath(path)):
            place = f"/proc/self/fd/{directory}"
            _set(place, text, follow=True)
            for name in names:
                _set(f"{place}/{name}", text)


def _set(path: str, text: str, *, follow: bool = False) -> None:
    try:
        os.setxattr(path, _XATTR, text.encode() + b"\0", follow_symlinks=follow)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOENT, errno.EROFS):
            raise
