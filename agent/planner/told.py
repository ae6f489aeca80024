"""Decisions: what the journal says of a step that succeeded, where it found something out."""

from __future__ import annotations

from agent.planner.model import BackedUp, BuiltImage, Collected, Drilled, Looked, Result, Sized
from agent.planner.space import size
from runtime.images.garbage import Removed
from specs.values import ImageRef

#: how many removed images are named
NAMED = 5


def told(result: Result) -> str:
    """One clause; empty for what goes without saying."""
    match result:
        case BackedUp(made=made):
            changed = f", {made.changed} entries changed meanwhile" if made.changed else ""
            removed = f", {made.removed} older ones removed" if made.removed else ""
            return f"{made.path}: {size(made.bytes)}, {made.entries} entries{changed}{removed}"
        case Drilled(done=done):
            return f"{done.path} is what it says: {done.entries} entries"
        case Looked(digest=digest):
            return f"is {digest}"
        case Sized(size=found):
            return f"needs {size(found.download)} and {size(found.unpacked)} unpacked" if found.total else ""
        case BuiltImage(steps=steps, cached=cached):
            return f"{cached} of {steps} steps were cached"
        case Collected(removed=removed) if removed:
            more = f" and {len(removed) - NAMED} more" if len(removed) > NAMED else ""
            freed = size(sum(item.size for item in removed))
            return f"removed {', '.join(map(_removed, removed[:NAMED]))}{more}: {freed} freed"
        case _:
            return ""


def _removed(item: Removed) -> str:
    name = ImageRef.parse(item.names[0]).familiar if item.names else item.image[:19]
    return f"{name} ({item.reason})"
