"""Decisions: when a registry is asked for an image: pull policies, intervals, and digests that are locked.

The words are Compose's (compose-spec, 05-services.md, pull_policy), and a plain duration.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from specs import shapes
from specs.desired import DesiredImage
from specs.ignore import LOCK_FILE
from specs.problems import Problem, nearest
from specs.shapes import Mistake
from specs.values import Digest, Duration, ImageRef

#: Version 1 was written by releases that did not lock the bases of what is built: with one, these are free.
LOCK_VERSION = 2
BASES_VERSION = 2
#: Seconds between two looks at one tag, at least: registries count requests.
MIN_INTERVAL = 10.0

_DAY = 86_400.0
_INTERVALS = {"daily": _DAY, "weekly": 7 * _DAY}
_WORDS = ("always", "missing", "never")


@dataclass(frozen=True, slots=True)
class PullPolicy:
    """`pull` is always, missing or never; `interval` is in seconds, 0: a tag is never looked up again."""

    pull: str
    interval: float = 0.0

    def __str__(self) -> str:
        return str(Duration(self.interval)) if self.interval else self.pull


def pull_policy(value: Any) -> PullPolicy:
    """always, missing (if_not_present), never; daily, weekly, every_DURATION or a duration: missing, and the
    tag is looked up again that often."""
    found = shapes.text(value)
    if found == "if_not_present":
        return PullPolicy("missing")
    if found in _WORDS:
        return PullPolicy(found)
    if found in _INTERVALS:
        return PullPolicy("missing", _INTERVALS[found])
    if found == "build":
        raise Mistake(
            f"{found!r}: {shapes.NOT_YET}", "an image with `build` is built whenever its files change"
        )
    try:
        interval = shapes.positive_duration(found.removeprefix("every_"))
    except ValueError:
        raise Mistake(
            f"cannot use {found!r}: write always, missing, never, daily, weekly or a duration such as 1h",
            nearest(found, (*_WORDS, *_INTERVALS)),
        ) from None
    if interval < MIN_INTERVAL:
        raise Mistake(f"cannot ask a registry every {found}", f"{MIN_INTERVAL:g}s or more")
    return PullPolicy("missing", interval)


_SCHEMA = {
    "anyOf": [
        {"enum": [*_WORDS, "if_not_present", *_INTERVALS]},
        {"type": "string", "pattern": r"^(every_)?([0-9.]+(us|µs|ms|s|m|h|d|w))+$"},
        shapes.VARIABLE,
    ]
}
Pull = Annotated[PullPolicy, *shapes.shape(pull_policy, _SCHEMA, "or a duration: look it up that often")]


def merge_image(images: dict[str, DesiredImage], image: DesiredImage) -> str:
    """Add `image`; of two pull policies the more eager one holds. Returns what contradicts, or ''."""
    key = str(image.ref)
    known = images.setdefault(key, image)
    if known is image:
        return ""
    if known.build is not None or image.build is not None:
        return f"image {image.ref.familiar!r} is built; it is declared in {known.place} too"
    if known.platform and image.platform and known.platform != image.platform:
        name = image.ref.familiar
        return f"image {name!r} is wanted for {image.platform} here and {known.platform} in {known.place}"
    images[key] = replace(
        known,
        pull=max(known.pull, image.pull, key=("never", "missing", "always").index),
        interval=min(known.interval, image.interval) or max(known.interval, image.interval),
        platform=known.platform or image.platform,
    )
    return ""


# ---------------------------------------------------------------- the lock file


@dataclass(frozen=True, slots=True)
class Lock:
    """Canonical reference with a tag -> `sha256:<hex>`, as the registry gives it (of an index where it has
    one). `version` is that of the file."""

    digests: Mapping[str, str] = field(default_factory=dict)
    version: int = LOCK_VERSION

    @property
    def has_bases(self) -> bool:
        """Whether base images of builds have to be in it, too."""
        return self.version >= BASES_VERSION


def read_lock(data: bytes, file: str = LOCK_FILE) -> tuple[Lock, tuple[Problem, ...]]:
    """What `stead lock` wrote, or every problem of it."""
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return Lock(), (Problem(file, 1, 1, f"cannot read the lock: {error}".lower(), "run stead lock"),)
    problems: list[Problem] = []

    def wrong(text: str, key: str = "") -> None:
        lines = data.decode().splitlines()
        line = next((number for number, item in enumerate(lines, 1) if key and f'"{key}"' in item), 1)
        problems.append(Problem(file, line, 1, text, "run stead lock"))

    version = document.get("version")
    if type(version) is not int or not 1 <= version <= LOCK_VERSION:
        wrong(f"cannot read the lock: its version is {version!r}, not {LOCK_VERSION} or less")
        return Lock(), tuple(problems)
    digests = document.get("digest", {})
    if set(document) - {"version", "digest"} or not isinstance(digests, dict):
        wrong("cannot read the lock: it has version and a table digest, and nothing else")
        return Lock(), tuple(problems)
    found: dict[str, str] = {}
    for name, digest in digests.items():
        try:
            ref = ImageRef.parse(name)
            found[str(ref)] = str(Digest.parse(digest if isinstance(digest, str) else ""))
        except ValueError as error:
            wrong(f"cannot read the lock: {error}", name)
    return Lock(found, version), tuple(problems)


def lockable(image: DesiredImage) -> bool:
    """Whether a lock file must say what the image is: a tag that comes from a registry."""
    return bool(image.ref.tag) and image.build is None and image.pull != "never"


def local_names(images: Iterable[DesiredImage]) -> frozenset[str]:
    """Canonical references of what is on this machine by other ways than a registry: built, or imported and
    never pulled. A build that begins from one takes it as it is."""
    found: set[str] = set()
    for image in images:
        if image.build is not None:
            found.update((str(image.ref), *map(str, image.build.tags)))
        elif image.pull == "never":
            found.add(str(image.ref))
    return frozenset(found)
