"""Effects: `stead rollback [NAME] [--to REVISION]`: an older version of a container, or an older revision of
a source, is in force until `stead release`."""

from __future__ import annotations

from agent.cli.main import Problem
from agent.cli.rollouts import naming
from agent.planner.updates import Order, Pin, Version
from agent.rollouts import Rollouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    text = "a container or a source (default: the only source)"
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help=text)
    text = "or its beginning (default: the good one before that in force)"
    parser.add_argument("--to", default="", metavar="REVISION", help=text)
    parser.add_argument("--reason", default="", metavar="TEXT", help="said in status")


def run(options: argparse.Namespace, paths: Paths) -> int:
    with naming.opened(paths) as rollouts:
        known = naming.sources(paths)
        order = naming.order(options.reason)
        if not options.name and len(known) != 1:
            which = f"there are {', '.join(known)}" if known else "no revision of a source was kept"
            raise Problem(f"say what to roll back: {which}", 2)
        name = options.name or known[0]
        if name in known and "/" not in name:
            said = source(paths, rollouts, name, options.to, order)
        else:
            said = service(rollouts, name, options.to, order)
    print(said)
    return 0


def source(paths: Paths, rollouts: Rollouts, name: str, to: str, order: Order) -> str:
    from agent.desired import Shelf

    shelf = Shelf(paths, name)
    history = shelf.history()
    ids = [revision.id for revision in history]
    pin = rollouts.orders().sources.get(name)
    good = shelf.get()
    now = pin.revision if pin is not None else good.id if good is not None else ids[-1] if ids else ""
    if to:
        fits = [id for id in ids if id.startswith(to)]
        if len(fits) != 1:
            kept = ", ".join(id[:12] for id in ids) or "none"
            raise Problem(f"source {name}: {len(fits)} revisions begin with {to}; kept are {kept}")
    else:
        earlier = ids[: ids.index(now)] if now in ids else []
        bad = _bad_revisions(rollouts, name)
        fits = ([id for id in earlier if id not in bad] or earlier)[-1:]
        if not fits:
            raise Problem(f"source {name}: no revision before {now[:12] or 'the one in force'} was kept")
    rollouts.pin_source(name, Pin(order.at, order.who, order.reason, None, fits[0]))
    return f"source {name} goes back to revision {fits[0][:12]} until: stead release {name}"


def _bad_revisions(rollouts: Rollouts, name: str) -> set[str]:
    """Those of a source in which a version of a container did badly and was not released."""
    known = (version for versions in rollouts.versions().values() for version in versions)
    return {id for version in known if version.source == name and version.bad for id in version.revisions}


def service(rollouts: Rollouts, name: str, to: str, order: Order) -> str:
    full = naming.service(rollouts, name)
    if not full:
        raise Problem(
            f"there is no source {name!r}, and no container of this name of which a version is known"
        )
    found = chosen(rollouts.versions()[full], to, rollouts.orders().pins.get(full))
    if found is None:
        raise Problem(
            f"container {full}: no {f'version of revision {to}' if to else 'good version before'} is kept"
        )
    rollouts.pin(full, Pin(order.at, order.who, order.reason, None, found.revision, found.key))
    return f"container {full} goes back to revision {found.revision[:12]} until: stead release {full}"


def chosen(known: Sequence[Version], to: str, pin: Pin | None) -> Version | None:
    """The version of revision `to`; else the newest good one before that in force, or one not known to be
    bad; last of all one that was bad and released (agent.rollouts: it has no time)."""
    if to:
        return next((v for v in reversed(known) if any(r.startswith(to) for r in v.revisions)), None)
    standing = [version for version in known if version.standing]
    now = standing[-1].number if standing else known[-1].number
    if pin is not None:
        now = next((version.number for version in known if version.key == pin.key), now)
    before = [version for version in known if version.number < now and not version.bad]
    return max(before, key=lambda version: (version.good, version.at > 0, version.number), default=None)
