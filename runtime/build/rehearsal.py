"""Decisions: a build gone through without doing anything, so that what is wrong in its last step is said
before its first one runs."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.build.config import ImageConfig, scratch
from runtime.build.graph import Graph, PlannedStage, ScratchBase, StageBase
from runtime.build.lint import kept, refuse
from runtime.build.problems import BuildWarning, DockerfileError, Problem
from runtime.build.stage import StageState, begin, continue_from, step


def rehearse(graph: Graph, bases: Mapping[int, ImageConfig], every: bool = False) -> tuple[BuildWarning, ...]:
    """The graph's warnings and those of the instructions of needed stages, or of `every` one, less what the
    file skips.

    `bases`: the configs of images and contexts that stages begin from, by the stage's number. Of a stage
    whose base is not known, what may depend on its variables is passed over. Raises DockerfileError with all
    problems, or with the warnings where the file calls them errors.
    """
    states: dict[int, StageState] = {}
    unknown: set[int] = set()
    problems: list[Problem] = []
    warnings: list[BuildWarning] = list(graph.warnings)
    for planned in graph.stages if every else graph.needed:
        state = _begun(planned, bases, states)
        base = planned.base
        if base.index in unknown if isinstance(base, StageBase) else state is None:
            unknown.add(planned.index)
        state = state or begin(ImageConfig())
        for instruction in planned.instructions:
            passed_over = planned.index in unknown and "$" in instruction.text
            try:
                stepped = step(state, instruction, graph.scope)
            except DockerfileError as error:
                problems += () if passed_over else error.problems
                continue
            state = stepped.state
            warnings += [one for one in stepped.warnings if not (passed_over and one.rule == "UndefinedVar")]
        states[planned.index] = state
    if problems:
        raise DockerfileError(problems)
    refuse(graph.file, warnings)
    return kept(graph.file, warnings)


def _begun(
    planned: PlannedStage, bases: Mapping[int, ImageConfig], states: Mapping[int, StageState]
) -> StageState | None:
    """What the stage begins with, None: nobody knows."""
    base = planned.base
    if isinstance(base, StageBase):
        return continue_from(states[base.index])
    if isinstance(base, ScratchBase):
        return begin(scratch(""))
    config = bases.get(planned.index)
    return None if config is None else begin(config)
