"""Decisions: which revisions wait until a person approves them: those that would remove much at once, or come
from an empty tree. A typo in a path, or an empty checkout, is no reason to remove what runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.observations import Observed, successor
from specs.desired import Desired


@dataclass(frozen=True, slots=True)
class Guard:
    """A revision waits when it removes more than `share` of all containers, and more than `containers`."""

    share: float = 0.5
    containers: int = 3


def held(guard: Guard, revision: str, desired: Desired, observed: Observed, *, empty: bool) -> str:
    """Why `desired` is not put in force; "" when it may be. `empty`: its source has no spec files at all."""
    ours = {
        name: item.source for name, item in observed.containers.items() if item.source and not successor(name)
    }
    gone = [
        name for name, owner in ours.items() if owner == desired.source and name not in desired.containers
    ]
    cure = f"it waits for: stead approve {revision[:12]}"
    if empty and gone:
        return f"its tree is empty, and {_all(len(gone))} would be removed; {cure}"
    if len(gone) > guard.containers and len(gone) > guard.share * len(ours):
        return f"it would remove {len(gone)} of {_all(len(ours))}; {cure}"
    return ""


def approved(orders: frozenset[tuple[str, str]], source: str, revision: str) -> bool:
    """Whether a person said so: by the beginning of the revision, for this source or for any."""
    return any(owner in ("", source) and revision.startswith(said) for owner, said in orders)


def _all(count: int) -> str:
    return f"{count} container{'s' if count != 1 else ''}"
