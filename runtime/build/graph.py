"""Decisions: which stages a build needs, what each begins from and which others it waits for.

Source: Dockerfile reference, "FROM", "COPY --from", "RUN --mount". Stages only look back: what is built
depends on stages above it, by name (without regard to case) or number; any other name is an image or a
named context.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from runtime.build import words
from runtime.build.dockerfile import parse_trigger
from runtime.build.instructions import Copy, Dockerfile, From, Instruction, Onbuild, Run, Stage
from runtime.build.lint import kept
from runtime.build.mounts import from_of
from runtime.build.problems import BuildWarning, DockerfileError, Place, Problem, nearest
from runtime.build.scope import AUTOMATIC, Scope, fold, scope_of, unused
from runtime.build.values import Value, replace

MAX_STAGES = 1000
MAX_TRIGGERS = 10_000  # ONBUILD instructions that all stages together get

_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_HOST = r"(?:localhost|[\w-]*[A-Z][\w-]*|[\w-]+(?:\.[\w-]+)+|\[[0-9a-fA-F:]+\]|[\w-]+(?=:\d))(?::\d+)?"
#: A reference of an image (grammar: distribution/reference).
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::\w[\w.-]{{0,127}})?(?:@[\w+.-]+:[0-9a-fA-F]{{32,}})?\Z", re.ASCII
)
_PLATFORM = re.compile(r"[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+){0,2}\Z")


class ScratchBase(Value):
    """Nothing."""


class StageBase(Value):
    """What the stage of this number made."""

    index: int


class ImageBase(Value):
    """An image by reference, as it is written; `platform` "": the one that is built for."""

    name: str
    platform: str = ""


class ContextBase(Value):
    """A named context (`--build-context name=...`)."""

    name: str
    platform: str = ""


Base: TypeAlias = ScratchBase | StageBase | ImageBase | ContextBase


class PlannedStage(Value):
    """A stage with what it needs. `sources` are the values of COPY --from and RUN --mount from= in it.

    `platform` "": the one that is built for. `instructions` begin with the triggers of the base.
    """

    index: int
    name: str
    place: Place
    base: Base
    platform: str
    instructions: tuple[Instruction, ...]
    sources: Mapping[str, Base]
    triggers: int = 0  # how many of the instructions the base's ONBUILD gave

    @property
    def needs(self) -> frozenset[int]:
        """The stages that must be built before this one."""
        bases = (self.base, *self.sources.values())
        return frozenset(base.index for base in bases if isinstance(base, StageBase))

    @property
    def title(self) -> str:
        return self.name or f"stage-{self.index}"


class Graph(Value):
    """Every stage of the file in order, and the one to be built."""

    file: Dockerfile
    stages: tuple[PlannedStage, ...]
    target: PlannedStage
    scope: Scope
    contexts: frozenset[str]
    warnings: tuple[BuildWarning, ...]

    @property
    def needed(self) -> tuple[PlannedStage, ...]:
        """The target and what it needs, directly or not; each after those that it needs."""
        found: set[int] = set()
        waiting = [self.target.index]
        while waiting:
            if (index := waiting.pop()) not in found:
                found.add(index)
                waiting += self.stages[index].needs
        return tuple(self.stages[index] for index in sorted(found))

    def with_triggers(self, index: int, triggers: Sequence[str]) -> Graph:
        """The graph with the ONBUILD triggers of the image that the stage begins from as its first steps.

        They may need stages that nothing needed before. Once a stage: later calls change nothing. Raises
        DockerfileError at the stage's FROM.
        """
        stage = self.stages[index]
        if not triggers or stage.triggers or isinstance(stage.base, StageBase):
            return self
        if len(triggers) > MAX_TRIGGERS:
            text = f"the base has more than {MAX_TRIGGERS} ONBUILD instructions"
            raise DockerfileError([Problem(stage.place, text)])
        planned = _with_triggers(stage, triggers, _Names(self.stages, self.contexts))
        stages = (*self.stages[:index], planned, *self.stages[index + 1 :])
        return replace(self, stages=stages, target=stages[self.target.index])


def plan(
    file: Dockerfile,
    *,
    build_platform: str,
    target_platform: str = "",
    target: str = "",
    args: Mapping[str, str] | None = None,
    contexts: Collection[str] = (),
) -> Graph:
    """The graph of one build for one platform (`linux/amd64`); `target`: a stage, "" the last one.

    `args` are build arguments, `contexts` the names of named ones, which win over stages and images. Raises
    DockerfileError with all problems that the stages have with each other.
    """
    given = dict(args or {})
    if len(file.stages) > MAX_STAGES:
        raise DockerfileError([Problem(Place(file.name), f"a Dockerfile has at most {MAX_STAGES} stages")])
    goal = _target(file, target)
    name = file.stages[goal].base.name
    scope = scope_of(file, given, build_platform, target_platform or build_platform, name)
    planner = _Planner(file, scope, frozenset(map(familiar, contexts)) - {"scratch", "context"})
    stages = planner.stages()
    warnings = kept(file, (*file.warnings, *planner.warnings, *unused(file, given)))
    return Graph(file, stages, stages[goal], scope, planner.contexts, warnings)


def familiar(name: str) -> str:
    """The shortest name of an image, in which named contexts are looked up: `alpine` for alpine:latest."""
    name = name.removeprefix("docker.io/").removeprefix("library/")
    return name.removesuffix(":latest").lower()


def _target(file: Dockerfile, target: str) -> int:
    if not target:
        return len(file.stages) - 1
    for index in range(len(file.stages) - 1, -1, -1):
        if file.stages[index].base.name == target.lower():
            return index
    if target.isascii() and target.isdecimal() and int(target[:6]) < len(file.stages):
        return int(target)
    names = [stage.base.name for stage in file.stages if stage.base.name]
    hint = nearest(target, names) or (f"it has {', '.join(names)}" if names else "no stage has a name")
    raise DockerfileError([Problem(Place(file.name), f"no stage is called {target!r}", hint)])


class _Names(Value):
    """The stages so far, as those below may name them."""

    stages: Sequence[PlannedStage]
    contexts: frozenset[str]

    def base(self, name: str, below: int, platform: str = "") -> Base:
        """What FROM `name` means in the stage of number `below`."""
        if familiar(name) in self.contexts:
            return ContextBase(name, platform)
        if (stage := self.stage(name, below)) is not None:
            return StageBase(stage)
        return ScratchBase() if name == "scratch" else ImageBase(name, platform)

    def source(self, name: str, below: int) -> Base:
        """What `--from=name` means there. Raises ValueError for a stage that is not above."""
        if name.isascii() and name.isdecimal():
            if int(name[:6]) >= below:
                above = f"0 to {below - 1}" if below else "none"
                raise ValueError(f"no stage above has the number {name} (there is {above})")
            return StageBase(int(name))
        return self.base(name, below)

    def stage(self, name: str, below: int) -> int | None:
        """The nearest stage above that is called so."""
        for index in range(below - 1, -1, -1):
            if self.stages[index].name == name.lower():
                return index
        return None


class _Planner:
    def __init__(self, file: Dockerfile, scope: Scope, contexts: frozenset[str]) -> None:
        self.file, self.scope, self.contexts = file, scope, contexts
        self.problems: list[Problem] = []
        self.warnings: list[BuildWarning] = []
        self.triggers = 0
        self.names = {stage.base.name: i for i, stage in enumerate(file.stages) if stage.base.name}

    def stages(self) -> tuple[PlannedStage, ...]:
        planned: list[PlannedStage] = []
        for index, stage in enumerate(self.file.stages):
            planned.append(self.stage(index, stage, _Names(planned, self.contexts)))
        if self.problems:
            raise DockerfileError(self.problems)
        return tuple(planned)

    def stage(self, index: int, stage: Stage, names: _Names) -> PlannedStage:
        start = stage.base
        platform = self.platform(start)
        base = names.base(self.image(start), index, platform)
        if start.name and start.name in self.contexts:
            base = ContextBase(start.name, platform)
        if isinstance(base, StageBase):
            platform = names.stages[base.index].platform
        self.check_default(start)
        if isinstance(base, ImageBase) and base.name:
            self.check_reference(base.name, start.place, self.unset(start))
        sources = self.sources(index, stage.instructions, names)
        planned = PlannedStage(index, start.name, start.place, base, platform, stage.instructions, sources)
        if isinstance(base, ContextBase) and familiar(start.name) in self.contexts:
            return replace(planned, instructions=(), sources={})
        if isinstance(base, StageBase):
            above = self.file.stages[base.index].instructions
            triggers = [one.trigger for one in above if isinstance(one, Onbuild)]
            return self.triggered(planned, triggers, names)
        return planned

    def triggered(self, planned: PlannedStage, triggers: list[str], names: _Names) -> PlannedStage:
        self.triggers += len(triggers)
        if self.triggers > MAX_TRIGGERS:
            text = f"all stages together get at most {MAX_TRIGGERS} instructions by ONBUILD"
            self.problems.append(Problem(planned.place, text))
            return planned
        try:
            return _with_triggers(planned, triggers, names)
        except DockerfileError as error:
            self.problems += error.problems
            return planned

    # ------------------------------------------------------------ FROM

    def image(self, start: From) -> str:
        """ "" for what is a problem already."""
        image = self.expand(start, start.image)
        if image == "":
            text = f"the image is empty: {start.image!r} has no value"
            self.problems.append(Problem(start.place, text, self.unset(start)))
        return image or ""

    def unset(self, start: From) -> str:
        """Which variable in the image's name has no value, and what was probably meant."""
        found = words.examine(start.image, self.scope.globals_.get, self.file.escape)
        for name in sorted(found.unset):
            hint = nearest(name, self.scope.globals_) or "give its ARG before the first FROM a default"
            return f"{name} has no value: {hint}"
        return ""

    def check_reference(self, name: str, place: Place, unset: str = "") -> None:
        if not _REFERENCE.match(name):
            form = "lower case only" if _REFERENCE.match(name.lower()) else "NAME, NAME:TAG or HOST/NAME:TAG"
            self.problems.append(Problem(place, f"{name!r} is no image and no stage above", unset or form))

    def platform(self, start: From) -> str:
        if not start.platform:
            return ""
        platform = self.expand(start, start.platform)
        if platform is None:
            return ""
        if not _PLATFORM.match(platform):
            text = f"--platform={start.platform}: {platform!r} is no platform"
            self.problems.append(Problem(start.place, text, "write linux/amd64 or linux/arm/v7"))
        elif platform == self.scope.globals_["TARGETPLATFORM"] and "TARGETPLATFORM" in start.platform:
            self.warn(start, "RedundantTargetPlatform", "the target's platform is the default")
        elif "$" not in start.platform and not any(p in start.name for p in platform.split("/") if p):
            text = f"FROM --platform should not be the constant {platform!r}"
            self.warn(start, "FromPlatformFlagConstDisallowed", text)
        return platform

    def warn(self, start: From, rule: str, text: str) -> None:
        self.warnings.append(BuildWarning(start.place, rule, text))

    def expand(self, start: From, text: str) -> str | None:
        """With the arguments before the first FROM; None when it cannot be, which is a problem already."""
        try:
            found = words.examine(text, self.scope.globals_.get, self.file.escape)
        except words.ExpansionError as error:
            self.problems.append(Problem(start.place, f"{error} in {text!r}"))
            return None
        for name in sorted(found.unset - self.scope.declared):
            hint = nearest(name, (*self.scope.declared, *self.scope.globals_))
            hint = f" ({hint})" if hint else ""
            self.warn(start, "UndefinedArgInFrom", f"no ARG before the first FROM declares {name!r}{hint}")
        return found.text

    def check_default(self, start: From) -> None:
        """Warn of an image that is none when no build argument is given."""
        if "$" not in start.image:
            return
        try:
            name = words.expand(start.image, self.defaults().get, self.file.escape)
        except (words.ExpansionError, DockerfileError):
            name = ""
        if not _REFERENCE.match(name):
            text = f"without build arguments {start.image!r} is {name!r}, which is no image"
            self.warn(start, "InvalidDefaultArgInFrom", text)

    def defaults(self) -> Mapping[str, str]:
        before = {name: self.scope.globals_[name] for name in AUTOMATIC}
        return fold(self.file.args, before, {}, self.file.escape)

    # ------------------------------------------------------------ --from

    def sources(self, index: int, instructions: Iterable[Instruction], names: _Names) -> dict[str, Base]:
        found: dict[str, Base] = {}
        for name, place in mentioned(instructions):
            try:
                found[name] = names.source(name, index)
            except ValueError as error:
                self.problems.append(Problem(place, str(error)))
                continue
            if isinstance(found[name], ImageBase) and (later := self.names.get(name.lower(), -1)) >= index:
                which = "itself" if later == index else "a stage below"
                text = f"a stage cannot copy from {which} ({name!r})"
                self.problems.append(Problem(place, text, "only stages above can be used"))
            elif isinstance(found[name], ImageBase):
                self.check_reference(name, place)
        return found


def mentioned(instructions: Iterable[Instruction]) -> Iterable[tuple[str, Place]]:
    """The stages, images and contexts that the instructions read from."""
    for one in instructions:
        if isinstance(one, Copy) and one.from_:
            yield one.from_, one.place
        if isinstance(one, Run):
            for flag in one.mounts:
                name = from_of(flag.value)
                if name:
                    yield name, flag.place


def _with_triggers(stage: PlannedStage, triggers: Sequence[str], names: _Names) -> PlannedStage:
    """The stage with the triggers before its own instructions."""
    problems: list[Problem] = []
    parsed: list[Instruction] = []
    sources = dict(stage.sources)
    for trigger in triggers:
        try:
            parsed.append(parse_trigger(trigger, stage.place))
        except DockerfileError as error:
            problems += error.problems
    for name, _ in mentioned(parsed):
        try:
            sources[name] = names.source(name, stage.index)
        except ValueError as error:
            problems.append(Problem(stage.place, f"ONBUILD of the base: {error}"))
    if problems:
        raise DockerfileError(problems)
    instructions = (*parsed, *stage.instructions)
    return replace(stage, instructions=instructions, sources=sources, triggers=len(parsed))
