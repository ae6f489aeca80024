"""Effects: which volume is meant, and whether an agent lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.paths import Paths


def meant(name: str, known: Iterable[str]) -> str:
    """The full name, where `name` is it or its last part; as it was written where no volume fits.

    Problem when several do.
    """
    names = sorted(known)
    if name in names:
        return name
    fits = [full for full in names if full.rpartition("/")[2] == name]
    if len(fits) > 1:
        raise Problem(f"cannot tell which volume {name!r} is: {', '.join(fits[:5])} fit; write the full name")
    return fits[0] if fits else name


@contextmanager
def alone(paths: Paths, *, needed: bool) -> Iterator[bool]:
    """Whether an agent lives, elsewhere. Where none does, and it is `needed`, none begins meanwhile."""
    from agent.lock import hold
    from runtime.faults import Fault

    if not needed:
        yield False
        return
    with ExitStack() as stack:
        foreign = False
        try:
            stack.enter_context(hold(paths, "volume"))
        except Fault as fault:
            if fault.code != "locked":
                raise
            foreign = True
        yield foreign
