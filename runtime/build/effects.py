"""Values: what an instruction asks of the file system: to run, to copy, to make a directory.

Every variable is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from runtime.build.mounts import RunMount
from runtime.build.problems import Place
from runtime.build.values import Value

#: Where the script of a heredoc that begins with `#!` is mounted, read-only.
SCRIPTS = "/dev/pipes"


class InlineFile(Value):
    """A file whose content the Dockerfile has (heredoc): mode 0644, as a script 0755."""

    name: str
    content: bytes


class RunEffect(Value):
    """A program to run. Mount targets and `workdir` are absolute; `user`: as the config says ("": root).

    `environment`: that of the image and the declared build arguments. `proxies` are in the environment too,
    unless it has the name already, but in no history and no cache key. `script` is to be at SCRIPTS/name.
    `heredocs` in `arguments` are text already. `title`: for people.
    """

    place: Place
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    workdir: str
    user: str
    mounts: tuple[RunMount, ...]
    network: str
    security: str
    script: InlineFile | None
    proxies: tuple[tuple[str, str], ...]
    title: str


class CopyEffect(Value):
    """Files to copy to `destination`, which is absolute; with a slash at its end it is a directory.

    `sources`: paths or patterns, for ADD also URLs; `files` come after them. `from_`: as written (see
    `PlannedStage.sources`), "" is the build context. `chown` is name or id with an optional group, `chmod`
    octal or symbolic; "": not given. `unpack` None: as ADD does without the flag; COPY never unpacks.
    """

    place: Place
    add: bool
    sources: tuple[str, ...]
    files: tuple[InlineFile, ...]
    destination: str
    from_: str
    chown: str
    chmod: str
    link: bool
    parents: bool
    exclude: tuple[str, ...]
    keep_git_dir: bool
    checksum: str
    unpack: bool | None
    title: str


class WorkdirEffect(Value):
    """A directory to be there, with those above it, 0755, owned by `user` ("": root) where it is made."""

    place: Place
    path: str
    user: str
    title: str


#: None: the instruction changes the config only.
Effect: TypeAlias = RunEffect | CopyEffect | WorkdirEffect | None
