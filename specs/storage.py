"""Decisions: every [volume.NAME] -> DesiredVolumes, and those that somebody else makes."""

from __future__ import annotations

from dataclasses import replace

from specs.declared import Declared, Index
from specs.desired import DesiredVolume
from specs.documents import Volume
from specs.fingerprint import volume_fingerprint
from specs.keeping import desired_backup
from specs.mountings import volume_name
from specs.problems import Problem
from specs.volumes import OptionMistake, backing

Found = dict[str, DesiredVolume]
#: What an external volume has from who made it.
_OWN = ("labels", "driver", "driver_opts", "keep", "prune", "backup")


def volumes(index: Index, problems: list[Problem]) -> tuple[Found, Found]:
    """(volumes of this source, external ones), by their names on the machine."""
    own: Found = {}
    externals: Found = {}
    places: dict[str, Declared] = {}
    for declared in index.all("volume"):
        model = declared.model
        if not isinstance(model, Volume):
            continue
        name = volume_name(declared)
        if model.external:
            problems += _external(declared, model)
            externals[name] = DesiredVolume(name, place=declared.place)
            continue
        first = places.setdefault(name, declared)
        if first is not declared:
            text = f"volume {name!r} is declared twice; it is {first.full!r} too ({first.place})"
            problems.append(declared.problem(("name",) if model.name else (), text))
            continue
        problems += _options(declared, model)
        volume = DesiredVolume(
            name,
            model.labels or {},
            place=declared.place,
            options=model.driver_opts or {},
            keep=bool(model.keep),
            prune=model.prune,
            backup=desired_backup(model.backup),
        )
        own[name] = replace(volume, fingerprint=volume_fingerprint(volume))
    return dict(sorted(own.items())), dict(sorted(externals.items()))


def _external(declared: Declared, model: Volume) -> list[Problem]:
    return [
        declared.problem(
            (key,), f"an external volume has no {key} here", "whoever makes it says so", at_key=True
        )
        for key in _OWN
        if getattr(model, key) is not None
    ]


def _options(declared: Declared, model: Volume) -> list[Problem]:
    if model.driver_opts is None:
        return []
    try:
        backing(model.driver_opts)
    except OptionMistake as mistake:
        path = ("driver_opts", mistake.key) if mistake.key else ("driver_opts",)
        return [declared.problem(path, str(mistake), mistake.hint)]
    return []
