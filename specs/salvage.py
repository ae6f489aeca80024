"""Decisions: what is left of a document when its wrong fields are taken out.

The rest is still looked at, so that one mistake hides no other one: what is not supported yet, and what does
not exist. What is left is never applied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from specs.documents import KINDS, SpecFile
from specs.positions import Path

#: Stands for what is missing; what is wrong with it is known already.
_UNKNOWN = "unknown"


def salvage(data: dict[str, Any], wrong: Iterable[Path]) -> SpecFile | None:
    """`wrong`: paths of values to take out, and of keys that are missing. None when nothing is left."""
    rest = copy.deepcopy(data)
    for path in wrong:
        _cut(rest, path)
    try:
        return SpecFile.model_validate(rest)
    except ValidationError:
        return None


def _cut(data: dict[str, Any], path: Path) -> None:
    if len(path) == 3 and path[0] == "container" and path[2] == "image":
        if isinstance(_at(data, path[:2]), dict):
            data["container"][path[1]]["image"] = _UNKNOWN
        return
    if len(path) == 2 and path[0] in KINDS and not isinstance(_at(data, path), dict):
        if path[1] in data[path[0]]:
            data[path[0]][path[1]] = {"image": _UNKNOWN} if path[0] == "container" else {}
        return
    here: Any = data
    for part, following in zip(path, (*path[1:], None), strict=True):
        if not _has(here, part):
            return  # gone already
        inside = here[part]
        if isinstance(inside, list) and following is not None:
            _cut_item(here, part, following)
            return
        if following is None or not isinstance(inside, dict):
            here.pop(part, None)
            return
        here = inside


def _cut_item(parent: Any, key: Any, index: Any) -> None:
    """Items behind the wrong one keep their numbers, or the whole list goes."""
    if key == "volumes":
        parent[key][index] = {"type": "tmpfs", "target": f"/{_UNKNOWN}-{index}"}
    else:
        parent.pop(key, None)


def _at(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part] if _has(data, part) else None
    return data


def _has(data: Any, part: str | int) -> bool:
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list) and isinstance(part, int) and part < len(data)
