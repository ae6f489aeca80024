"""Values: what is to be built, from what, and what becomes of it. Nothing here looks at the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.wishes import LimitsRequest
    from specs.values import ImageRef

_EMPTY: Mapping[str, str] = MappingProxyType({})

DOCKERFILE = "Dockerfile"
#: `context` of a tar archive that is read from descriptor 0.
STDIN = "-"


@dataclass(frozen=True, slots=True)
class SecretSource:
    """A secret that RUN --mount=type=secret may show: the file `path`, or the variable `env` of the caller's
    environment, or the text itself. Never part of a layer, a history or a cache key."""

    id: str
    path: str = ""
    env: str = ""
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class SshSource:
    """An agent's socket for RUN --mount=type=ssh."""

    id: str = "default"
    socket: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """What becomes of the result. `kind` is image, local, tar, oci or docker; `dest` a path, `-` for
    descriptor 1; `attributes` are the other words of --output."""

    kind: str = "image"
    dest: str = ""
    attributes: Mapping[str, str] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """One build. `context` is a directory, a git or http URL, or `-` (a tar on descriptor 0), empty for none.

    `dockerfile` is a path within the context; `dockerfile_text` takes its place. `contexts` are named ones:
    a directory, a URL, `docker-image://NAME`, `target:STAGE` is not known. `epoch` are seconds to which every
    time in the result is clamped. `source` marks who builds, in messages and progress.
    """

    context: str = ""
    dockerfile: str = DOCKERFILE
    dockerfile_text: bytes | None = None
    dockerfile_name: str = ""  # what messages call it; empty: as `dockerfile`
    target: str = ""
    args: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    labels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    annotations: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    names: tuple[ImageRef, ...] = ()
    contexts: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    secrets: tuple[SecretSource, ...] = ()
    ssh: tuple[SshSource, ...] = ()
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()  # stages that are built anew
    pull: bool = False
    platforms: tuple[str, ...] = ()
    network: str = "default"  # default | none | host
    extra_hosts: tuple[tuple[str, str], ...] = ()  # (name, address)
    shm_size: int = 0  # bytes; 0: 64 MiB
    ulimits: tuple[tuple[str, int, int], ...] = ()  # (name, soft, hard)
    limits: LimitsRequest | None = None
    outputs: tuple[Output, ...] = ()
    epoch: int | None = None
    cache_from: tuple[str, ...] = ()  # images whose steps may be used, see runtime.build.inline
    inline_cache: bool = False  # the image gets its steps
    locked: Mapping[str, str] | None = (
        None  # canonical reference -> digest, see runtime.build.locks; None: free
    )

    @property
    def label(self) -> str:
        """What messages call this build."""
        return self.names[0].familiar if self.names else (self.dockerfile_name or self.dockerfile)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """`image_id` is the config's digest (of the first platform), `digest` that of the manifest or index where
    one was made. `steps` counts instructions that have a layer or run, `cached_steps` those taken as they
    were."""

    image_id: str
    digest: str = ""
    steps: int = 0
    cached_steps: int = 0
    names: tuple[str, ...] = ()
    images: tuple[tuple[str, str], ...] = ()  # (platform, image id)
    warnings: tuple[str, ...] = ()
    recipe: Mapping[str, object] | None = None  # what it followed from, where all of that can be looked up


#: How the parts of BuildInputs begin that are the ids of base images; empty: not in the store.
BASE_PART = "base image "


@dataclass(frozen=True, slots=True)
class BuildInputs:
    """What a build is made from: `key` is equal as long as nothing of it changes, `parts` has a sum of each
    thing by what people call it ("context file app/main.py"), to tell what changed."""

    key: str
    parts: Mapping[str, str] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """One thing that happened. `vertex` numbers the step as it is shown (#7); `kind` is start, cached,
    output, done, error, warning or note; `text` is the step's name, output or message; `seconds` since its
    start."""

    vertex: int
    kind: str
    text: str = ""
    seconds: float = 0.0


BuildCallback = Callable[[BuildEvent], None]


def quiet(_event: BuildEvent) -> None:
    """A callback that shows nothing."""
