"""Effects: what a container's first process makes before its bundle is there.

Its namespaces, but that of mounts, which is to have its root; and the file systems that every container has
(proc, sysfs, /dev with its nodes, cgroups), detached, to be put on the root that is not there yet. What
config.json says otherwise than it was thought of is made then.
"""

from __future__ import annotations

import os

from runtime.linux import namespaces
from runtime.shim import entries, hierarchies, root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Config = dict[str, Any]

#: namespaces that need nothing of the root
KINDS = ("uts", "ipc", "cgroup")


class Ahead:
    """`own`: kinds of namespaces that were made."""

    __slots__ = ("_made", "own")

    def __init__(self, config: Config) -> None:
        """By what is known of config.json: runtime.shim.early. OSError for namespaces; what cannot be mounted
        is left to be tried again, and to be told, by who mounts all."""
        spaces = {entry["type"]: entry.get("path") for entry in config["linux"]["namespaces"]}
        self.own = [kind for kind in KINDS if kind in spaces and not spaces[kind]]
        namespaces.unshare(sum(namespaces.FLAGS[kind] for kind in self.own))
        self._made: list[tuple[Config, int | hierarchies.Made]] = []
        os.umask(0)
        listed = config.get("mounts") or ()
        for entry in listed:
            try:
                self._made.append((entry, self._make(entry, listed)))
            except OSError:
                pass

    def _make(self, entry: Config, listed: Sequence[Config]) -> int | hierarchies.Made:
        if entry["type"] == "cgroup":
            return hierarchies.make(entry)
        fd = entries.new(-1, entry)
        if entry["destination"] == "/dev":
            root.fill_dev(fd)
            for below, name in (os.path.split(other["destination"]) for other in listed):
                if below == "/dev":
                    os.mkdir(name, 0o755, dir_fd=fd)
        return fd

    def put(self, directory: int, entry: Config) -> bool:
        """Mount it in the open directory that is to be the root. False where it was not made."""
        at = next((at for at, (known, _) in enumerate(self._made) if known == entry), -1)
        if at < 0:
            return False
        _, made = self._made.pop(at)
        if isinstance(made, int):
            entries.put(directory, str(entry["destination"]), made)
            os.close(made)
        else:
            hierarchies.put(directory, entry, made)
        return True

    def close(self) -> None:
        """What was not used goes."""
        for _, made in self._made:
            if isinstance(made, int):
                os.close(made)
            else:
                made.close()
        self._made = []
