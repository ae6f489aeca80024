"""Decisions: `--filter` of `image ls` and `image prune`: which images are meant.

As docker: dangling, label (all of them must be there), reference (one of the patterns must fit a name),
before and since (an image), until (a time or how long ago).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from runtime.images.listing import Listed

_GO_DURATION = re.compile(r"([+-]?)((?:[0-9]*\.?[0-9]+(ns|us|µs|ms|s|m|h|d|w))+)")
_NS = 1_000_000_000
_TRUE, _FALSE = frozenset({"1", "true", "t"}), frozenset({"0", "false", "f"})


@dataclass(frozen=True, slots=True)
class Filter:
    """`before` and `until` leave only older images, `since` only newer (seconds since the epoch, 0: any)."""

    dangling: bool | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    unlabelled: tuple[tuple[str, str | None], ...] = ()  # label!=: those are not meant
    references: tuple[str, ...] = ()
    before: float | None = None
    since: float | None = None

    def accepts(self, image: Listed, labels: Mapping[str, str]) -> bool:
        """Everything but `references`, which `names` looks at."""
        made = created(image.created)
        if self.dangling is not None and self.dangling == bool(image.tags):
            return False
        if self.before is not None and not made < self.before:
            return False
        if self.since is not None and not made > self.since:
            return False
        return all(_has(labels, *item) for item in self.labels) and not any(
            _has(labels, *item) for item in self.unlabelled
        )

    def names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those familiar names that one of the patterns fits; all of them where there is no pattern."""
        if not self.references:
            return tuple(names)
        return tuple(name for name in names if any(fits(pattern, name) for pattern in self.references))


def _has(labels: Mapping[str, str], key: str, value: str | None) -> bool:
    return key in labels and (value is None or labels[key] == value)


def read(words: Sequence[str], known: Collection[str], *, now: float, made: Callable[[str], float]) -> Filter:
    """`words` are KEY=VALUE. `made` is when the image of a name was made. Raises Problem."""
    found = Filter()
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise Problem(f"cannot read filter {word!r}: write KEY=VALUE", 2)
        negated = key.endswith("!")
        key = key.removesuffix("!")
        if key not in known or (negated and key != "label"):
            raise Problem(f"cannot read filter {word!r}: the filters are {', '.join(sorted(known))}", 2)
        found = _with(found, key, value, negated, now, made)
    return found


def _with(
    found: Filter, key: str, value: str, negated: bool, now: float, made: Callable[[str], float]
) -> Filter:
    match key:
        case "dangling":
            return replace(found, dangling=_truth(value))
        case "label":
            name, equals, text = value.partition("=")
            item = (name, text if equals else None)
            if negated:
                return replace(found, unlabelled=(*found.unlabelled, item))
            return replace(found, labels=(*found.labels, item))
        case "reference":
            return replace(found, references=(*found.references, value))
        case "before" | "until":
            time = made(value) if key == "before" else moment(value, now)
            return replace(found, before=time if found.before is None else min(time, found.before))
        case _:
            time = made(value)
            return replace(found, since=time if found.since is None else max(time, found.since))


def meant(images: Sequence[Listed], text: str) -> Listed:
    """The image of this name, id or beginning of an id. Raises Problem."""
    from specs.values import ImageRef

    try:
        name = str(ImageRef.parse(text))
    except ValueError:
        name = text
    digits = text.removeprefix("sha256:")
    named = [image for image in images if name in image.names]
    found = named or [image for image in images if digits and image.id[7:].startswith(digits)]
    if len(found) != 1:
        raise Problem(f"cannot find image {text}: {'several ids begin so' if found else 'it is not there'}")
    return found[0]


def _truth(value: str) -> bool:
    if value.lower() not in _TRUE | _FALSE:
        raise Problem(f"cannot read filter dangling={value}: write true or false", 2)
    return value.lower() in _TRUE


def moment(text: str, now: float) -> float:
    """As `moment_ns`, in seconds since the epoch."""
    return moment_ns(text, round(now * _NS)) / _NS


def moment_ns(text: str, now: int) -> int:
    """A time (RFC 3339, a date, seconds since the epoch) or how long ago (10m, 1h30m; -10m lies ahead, as in
    docker), to the nanosecond: what `logs -t` printed is that time. Raises Problem."""
    from datetime import datetime

    from specs.values import Duration

    if number := re.fullmatch(r"(-?)([0-9]{1,12})(?:\.([0-9]*))?", text, re.ASCII):
        found = int(number[2]) * _NS + _fraction(number[3])
        return -found if number[1] else found
    try:
        if ago := _GO_DURATION.fullmatch(text):
            length = round(Duration.parse(ago[2]) * _NS)
            return now + length if ago[1] == "-" else now - length
        at = datetime.fromisoformat(text)  # takes more digits than it keeps
        digits = re.search(r"[.,]([0-9]+)", text)
        return int(at.replace(microsecond=0).timestamp()) * _NS + _fraction(digits[1] if digits else "")
    except (ValueError, OverflowError):
        wanted = "write how long ago (24h), a date (2024-05-31), a time (2024-05-31T12:00:00Z)"
        raise Problem(f"cannot read time {text!r}: {wanted} or seconds since 1970", 2) from None


def _fraction(digits: str | None) -> int:
    """Nanoseconds, of what stands after the point."""
    return int((digits or "")[:9].ljust(9, "0"))


def created(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time; 0 where an image does not say, or says nonsense."""
    from datetime import datetime

    try:
        return max(0.0, datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0.0


def labels(config: str) -> Mapping[str, str]:
    """Of a config document's text."""
    found = (json.loads(config).get("config") or {}).get("Labels") or {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def fits(pattern: str, name: str) -> bool:
    """As Go's path.Match: `*` and `?` are within a part between slashes. With or without the tag."""
    repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
    compiled = _pattern(pattern)
    return bool(compiled.fullmatch(name) or compiled.fullmatch(repository))


def _pattern(text: str) -> re.Pattern[str]:
    out, at = "", 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[" and (end := text.find("]", at + 1)) > 0:
            inner = re.sub(r"[\\\[\]&~|]", r"\\\g<0>", text[at:end])
            out += f"[{inner}]"
            at = end + 1
        elif char == "\\" and at < len(text):
            out += re.escape(text[at])
            at += 1
        else:
            out += re.escape(char)
    try:
        return re.compile(out)
    except re.error:
        raise Problem(f"cannot read pattern {text!r}", 2) from None
