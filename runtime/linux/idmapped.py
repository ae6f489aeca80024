"""Effects: user namespaces that are made from outside, for a container to be put in, and overlay mounts whose
files belong to the ids of one.

user_namespaces(7), mount_setattr(2) (MOUNT_ATTR_IDMAP, Linux 5.12; layers of overlays 5.19). On disk
everything keeps the owners that it has without a user namespace: layers are shared with all other containers,
and what a container writes can be read, copied and committed as ever. Used by the agent: no process of many
threads may enter a user namespace, so that a program is started for it.
"""

from __future__ import annotations

import os
import subprocess
import threading

from runtime.linux import libc, mounts, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    StrPath = str | os.PathLike[str]
    Mappings = Sequence[Mapping[str, int]]

#: util-linux; `cat` answers when the namespaces are there, and holds them until its input ends.
_HOLDER = ("unshare", "--user")
_TIMEOUT = 20.0
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP = 27, 28, 4
#: What is written must be all in the upper directory: see runtime.linux.overlay.
_WHOLE = "redirect_dir=off,metacopy=off"


def create(user: StrPath, network: StrPath | None, uids: Mappings, gids: Mappings) -> None:
    """A new user namespace with these mappings, bound to the file `user`, which is made; with `network` a new
    network namespace that belongs to it, its loopback up. Repeatable: what is bound already stays."""
    wanted = [path for path in (user, network) if path is not None]
    if all(mounts.is_mounted(path) for path in wanted):
        return
    for path in wanted:  # one without the other belongs to nobody any more
        namespaces.delete_netns(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with _held(network is not None) as holder:
        namespaces.write_id_maps(holder.pid, uids, gids)
        mounts.mount(f"/proc/{holder.pid}/ns/user", user, None, mounts.MS_BIND)
        if network is not None:
            mounts.mount(f"/proc/{holder.pid}/ns/net", network, None, mounts.MS_BIND)
    if network is not None:
        with namespaces.in_netns(network):
            namespaces.raise_loopback()


class _held:
    """A process in new namespaces, within the block."""

    def __init__(self, network: bool) -> None:
        words = (*_HOLDER, *(("--net",) if network else ()), "cat")
        try:
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-1)
        except FileNotFoundError as error:
            raise OSError(
                2, "make user namespace: there is no unshare (apt-get install util-linux)"
            ) from error
        self.pid = self._process.pid

    def __enter__(self) -> _held:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            answered = self._process.stdout.read(1)
        except BrokenPipeError:
            answered = b""
        if not answered:
            _, text = self._process.communicate(timeout=_TIMEOUT)
            cause = text.decode(errors="replace").strip().removeprefix("unshare: ")
            raise OSError(1, f"make user namespace: {cause or 'it ended'}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=_TIMEOUT)


def mount(
    lowers: Sequence[StrPath],
    home: tuple[StrPath, str, str] | None,
    target: StrPath,
    *,
    userns: StrPath,
    owner: tuple[int, int],
) -> None:
    """Mount an overlay of `lowers` (TOP layer first) at `target`, in which files have the ids that the user
    namespace bound to `userns` gives them. `home`: a directory with the names of the upper and the work
    directory in it; None: read-only. `owner`: user and group of the host that are 0 there.

    OSError names a file system that takes no id-mapped mounts.
    """
    failures: list[BaseException] = []
    made: list[int] = []

    def run() -> None:
        try:
            made.append(_make(lowers, home, target, userns, owner))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="stead-idmapped")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    try:
        mounts.attach(made[0], target)
    finally:
        os.close(made[0])


def _make(
    lowers: Sequence[StrPath],
    home: tuple[StrPath, str, str] | None,
    target: StrPath,
    userns: StrPath,
    owner: tuple[int, int],
) -> int:
    """A detached overlay, made in a mount namespace of this thread's own, where the id-mapped directories
    have short names: `mount -o` takes one page. Overlay keeps copies of these mounts."""
    namespaces.unshare(namespaces.CLONE_FS | namespaces.CLONE_NEWNS)
    mounts.make_private("/", kind="rprivate")
    around = mounts.new_filesystem("tmpfs", (("mode", "755"),))
    try:
        mounts.attach(around, target)
    finally:
        os.close(around)
    os.chdir(target)
    ids = os.open(userns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        names = [str(number) for number in range(len(lowers))]
        for name, layer in zip(names, lowers, strict=True):
            _place(layer, name, ids)
        data = f"lowerdir={':'.join(names)}"
        if home is not None:
            _place(home[0], "home", ids)
            data += f",upperdir=home/{home[1]},workdir=home/{home[2]},{_WHOLE}"
        elif len(names) == 1:  # overlay wants two
            return mounts.open_tree("0", recursive=False)
    finally:
        os.close(ids)
    _act_as(*owner)
    os.mkdir("merged")
    mounts.mount("overlay", "merged", "overlay", 0 if home is not None else mounts.MS_RDONLY, data)
    return mounts.open_tree("merged", recursive=False)


def _place(source: StrPath, name: str, ids: int) -> None:
    tree = mounts.open_tree(source, recursive=False)
    try:
        mounts.set_attributes(tree, set=mounts.MOUNT_ATTR_IDMAP, userns=ids)
        os.mkdir(name)
        mounts.attach(tree, name)
    except OSError as error:
        if error.errno != 22:
            raise
        text = f"its file system ({_filesystem(source)}) takes no id-mapped mounts"
        raise OSError(error.errno, text, os.fspath(source)) from None
    finally:
        os.close(tree)


def _filesystem(path: StrPath) -> str:
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return next((found.type for found in mounts.table(naming=f" {number} ")), number)


def _act_as(uid: int, gid: int) -> None:
    """Files that overlay makes for itself and while it copies belong to who mounted it, and must be
    somebody's through the id-mapped mount. This thread keeps its capabilities: capabilities(7),
    SECBIT_NO_SETUID_FIXUP."""
    bits = libc.prctl(_PR_GET_SECUREBITS)
    libc.prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NO_SETUID_FIXUP, subject="PR_SET_SECUREBITS")
    libc.syscall("setfsgid", gid)
    libc.syscall("setfsuid", uid)
