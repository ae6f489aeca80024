"""Decisions: what `--change` of `image import` and `container commit` makes of an image's config.

Each change is an instruction of a Dockerfile that says something of the image and does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runtime.build.config import ImageConfig, write_config
from runtime.build.dockerfile import parse
from runtime.build.instructions import (
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Onbuild,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from runtime.build.problems import DockerfileError, Place, Problem
from runtime.build.scope import Scope
from runtime.build.stage import StageState, step
from runtime.build.values import replace

_ALLOWED = (
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Onbuild,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
NAMES = ", ".join(kind.__name__.upper() for kind in _ALLOWED)
_SCOPE = Scope("\\", {}, {}, frozenset())


def changed(config: ImageConfig, changes: Sequence[str]) -> ImageConfig:
    """The config after the changes, in their order; its history is as it was. Raises DockerfileError whose
    places are the changes (`--change 1`)."""
    history = config.history
    for number, text in enumerate(changes, 1):
        config = _after(config, text, f"--change {number}")
    return replace(config, history=history)


def _after(config: ImageConfig, text: str, name: str) -> ImageConfig:
    try:
        file = parse(f"FROM scratch\n{text}\n".encode("utf-8", "surrogateescape"), name)
    except DockerfileError as error:
        raise DockerfileError(
            [Problem(Place(name), item.text, item.hint) for item in error.problems]
        ) from error
    if len(file.stages) > 1:
        raise _no_change(name, "FROM")
    state = StageState(config, dict(config.env))
    for instruction in (one for stage in file.stages for one in stage.instructions):
        if not isinstance(instruction, _ALLOWED):
            raise _no_change(name, instruction.keyword.upper())
        state = step(state, instruction, _SCOPE).state
    return state.config


def _no_change(name: str, keyword: str) -> DockerfileError:
    text = f"{keyword} is no change of an image's config"
    return DockerfileError([Problem(Place(name), text, f"there are {NAMES}")])


def config_object(config: ImageConfig) -> dict[str, Any]:
    """The `config` of the image's config."""
    found: dict[str, Any] = json.loads(write_config(config, (), ""))["config"]
    return found
