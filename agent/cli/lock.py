"""Effects: `stead lock DIR`: write down which digest each tag of the specs stands for, those of the bases of
what is built, too. Exit 0: the file is as it should be now; 2 (with --check): it is not.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from agent.cli import specs
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

    from agent.buildfiles import Bases
    from agent.settings import Settings
    from runtime.paths import Paths
    from specs.pulls import Lock
    from specs.values import ImageRef

#: registries that are asked at once
PARALLEL = 8
#: What to do about a base that no registry has.
LOCAL = 'a base that was imported: declare it as [image.NAME] with pull = "never"'
HEADER = (
    "# Written by `stead lock`: only these digests run. `stead lock --update DIR` looks the tags up again.\n"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    specs.add_options(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="with --update: only these images")
    parser.add_argument("-u", "--update", action="store_true", help="look up again what is locked already")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, write nothing")
    parser.add_argument(
        "--check", action="store_true", help="as --dry-run; exit 2 when something would change"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    if options.names and not options.update:
        raise Problem("NAME is only used with --update", 2)
    settings = specs.settings_of(options)
    file = Path(options.directory) / _lock_file()
    found, lock = _wanted(options, settings), _read(file)
    if found is None:
        return 1
    wanted, before = found.refs, lock.digests
    again = _chosen(wanted, options.names) if options.update else set()
    asked = [ref for name, ref in wanted.items() if name not in before or name in again]
    after = {name: before[name] for name in wanted if name in before} | _look_up(
        settings, asked, found.places
    )
    lines = [*_changes(before, after), *_upgrade(lock, found)]
    print("\n".join(lines) if lines else f"{file} is up to date")
    if options.check:
        return 2 if lines else 0
    if not options.dry_run and (lines or not file.exists()):
        _write(file, after)
    return 0


def _lock_file() -> str:
    from specs.ignore import LOCK_FILE

    return LOCK_FILE


def _wanted(options: argparse.Namespace, settings: Settings) -> Bases | None:
    """The tags that a lock file must have: of the specs, and of the bases of what is built. None: the specs
    are wrong, or what is built is."""
    from agent.buildfiles import Bases, bases
    from specs.pulls import lockable

    found = specs.read(options, settings, locked=False)
    if found.desired is not None:
        based = bases(found.desired)
        found = replace(found, problems=based.problems)
    if found.desired is None or found.problems:
        specs.show_problems(found)
        return None
    declared = {name: image.ref for name, image in found.desired.images.items() if lockable(image)}
    return Bases(dict(sorted({**based.refs, **declared}.items())), based.places)


def _chosen(wanted: Mapping[str, ImageRef], names: list[str]) -> set[str]:
    """Canonical references. Without names: all."""
    from specs.problems import nearest
    from specs.values import ImageRef

    chosen = set()
    for name in names:
        try:
            canonical = str(ImageRef.parse(name))
        except ValueError as error:
            raise Problem(str(error)) from error
        if canonical not in wanted:
            near = nearest(name, [ref.familiar for ref in wanted.values()])
            raise Problem(f"the specs name no image {name!r}" + (f" ({near})" if near else ""))
        chosen.add(canonical)
    return chosen if names else set(wanted)


def _read(file: Path) -> Lock:
    """What is locked. A file that cannot be read as a lock is written anew."""
    from specs.pulls import Lock, read_lock

    try:
        lock, problems = read_lock(file.read_bytes())
    except FileNotFoundError:
        return Lock()
    except OSError as error:
        raise Problem(f"cannot read {file}: {(error.strerror or '').lower()}") from error
    return Lock() if problems else lock


def _upgrade(lock: Lock, found: Bases) -> list[str]:
    """What a file that was written before bases were locked becomes, where something has bases."""
    from specs.pulls import LOCK_VERSION

    if lock.has_bases or not found.places:
        return []
    return [f"version {lock.version} -> {LOCK_VERSION}: the base images of what is built are locked, too"]


def _look_up(settings: Settings, refs: Iterable[ImageRef], places: Mapping[str, str]) -> dict[str, str]:
    """The digest that each one stands for now; `places` are those of bases. Raises Problem with every one
    that is not to be had."""
    from concurrent.futures import ThreadPoolExecutor

    from agent.machine import open_registries
    from runtime.faults import Fault

    found: dict[str, str] = {}
    failures: list[str] = []
    with closing(open_registries(settings)) as registries, ThreadPoolExecutor(PARALLEL) as pool:
        asked = [(ref, pool.submit(registries.digest, ref)) for ref in refs]
        for ref, answer in asked:
            try:
                found[str(ref)] = answer.result()
            except Fault as fault:
                place = places.get(str(ref), "")
                failures.append(f"{place}: {fault} ({LOCAL})" if place else str(fault))
    if failures:
        raise Problem("\n".join([*failures, "nothing was changed"]))
    return found


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[str]:
    from specs.values import ImageRef

    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            yield f"{ImageRef.parse(name).familiar}: {old or '(not locked)'} -> {new or '(not locked)'}"


def _write(file: Path, digests: Mapping[str, str]) -> None:
    """In one rename; readable as other files of a repository are."""
    import tomli_w

    from specs.pulls import LOCK_VERSION

    document = {"version": LOCK_VERSION, "digest": dict(sorted(digests.items()))}
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        try:
            fresh.write_text(HEADER + tomli_w.dumps(document))
            fresh.replace(file)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise Problem(f"cannot write {file}: {(error.strerror or '').lower()}") from error
