"""Decisions: the bytes of a Dockerfile -> its stages and instructions, or every problem in it.

Source: Dockerfile reference (docs.docker.com/reference/dockerfile). Nothing is looked up, replaced or run;
the file is a stranger's and no bytes make this raise anything but DockerfileError.
"""

from __future__ import annotations

from runtime.build import lines, lint
from runtime.build.instructions import Arg, Dockerfile, From, Instruction, Stage
from runtime.build.lines import Logical
from runtime.build.problems import DockerfileError, Place, Problem, nearest
from runtime.build.reading import INSTRUCTIONS, Line, read_instruction
from runtime.build.values import replace

__all__ = ["DockerfileError", "parse", "parse_trigger"]


def parse(data: bytes, name: str = "Dockerfile") -> Dockerfile:
    """The file, called `name` in places. Raises DockerfileError with all its problems."""
    read = lines.read(data, name)
    escape = read.directives.escape
    problems = list(read.problems)
    parsed: list[Instruction | From] = []
    lost = False  # a FROM, or what was to be one, is among the problems
    for logical in read.lines:
        instruction = _instruction(logical, escape, problems)
        if instruction is not None:
            parsed.append(instruction)
        else:
            keyword = logical.text.split()[0].upper()
            lost = lost or keyword == "FROM" or keyword not in INSTRUCTIONS
    args, stages = _stages(parsed, problems, lost)
    if not stages and not problems:
        text = "no stage to build: it has no FROM" if parsed else "it has no instructions"
        problems.append(Problem(Place(name), text, "begin it with FROM IMAGE"))
    skip, errors = lint.settings(read.directives.check, Place(name, read.directives.check_line, 1), problems)
    if problems:
        raise DockerfileError(problems)
    file = Dockerfile(name, args, stages, escape, read.directives.syntax, skip, errors)
    return lint.with_warnings(file, read)


def parse_trigger(text: str, place: Place) -> Instruction:
    """An instruction that a base's config has under OnBuild. Raises DockerfileError at `place`.

    It has the place and, whatever the file's escape character is, the default one.
    """
    read = lines.read(text.encode("utf-8", "surrogateescape"), place.file)
    problems = [Problem(place, f"ONBUILD {text}: {problem.text}", problem.hint) for problem in read.problems]
    found: list[Problem] = []
    parsed = [one for logical in read.lines if (one := _instruction(logical, "\\", found))]
    problems += [Problem(place, f"ONBUILD {text}: {one.text}", one.hint) for one in found]
    if not problems and (len(parsed) != 1 or isinstance(parsed[0], From)):
        problems.append(Problem(place, f"ONBUILD {text}: it is not one instruction of a stage"))
    if problems:
        raise DockerfileError(problems)
    assert not isinstance(parsed[0], From)
    return replace(parsed[0], place=place)


def _instruction(logical: Logical, escape: str, problems: list[Problem]) -> Instruction | From | None:
    """What the line says, or None with its problems reported."""
    line = Line.of(logical, escape)
    if line.keyword.upper() not in INSTRUCTIONS:
        hint = nearest(line.keyword, INSTRUCTIONS)
        if not line.keyword.isprintable() or "\N{NO-BREAK SPACE}" in line.keyword:
            hint = "there is a space in it that is no blank"
        problems.append(Problem(logical.place(), f"unknown instruction {line.keyword!r}", hint))
        return None
    return read_instruction(line, problems)


def _stages(
    parsed: list[Instruction | From], problems: list[Problem], lost: bool
) -> tuple[tuple[Arg, ...], tuple[Stage, ...]]:
    """Instructions under their FROM; before the first one only ARG may stand."""
    args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for instruction in parsed:
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            args.append(instruction)
        elif not lost:
            text = f"{instruction.keyword.upper()} stands before the first FROM"
            problems.append(Problem(instruction.place, text, "only ARG can"))
    return tuple(args), tuple(Stage(base, tuple(inside)) for base, inside in stages)
