"""The parser cases of BuildKit: the same file is read as the same words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.build.dockerfile import DockerfileError, parse
from runtime.build.instructions import (
    Add,
    Arg,
    Cmd,
    CommandLine,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)

CASES = Path(__file__).parents[2] / "../shared/data/buildkit/frontend/dockerfile/parser"
GOOD = sorted(path.parent for path in CASES.glob("testfiles/*/Dockerfile"))
BAD = sorted(path.parent for path in CASES.glob("testfiles-negative/*/Dockerfile"))
#: Only their syntax is right: flags that no instruction has, HEALTHCHECK without a command.
REFUSED = {"flags": "unknown flag --user for COPY", "health": "HEALTHCHECK needs CMD or NONE"}

pytestmark = pytest.mark.skipif(not CASES.exists(), reason="BuildKit's cases are not in ../shared/data")


def quoted(*texts: str) -> str:
    """As Go's strconv.Quote writes them, for what is in the cases."""
    out = (json.dumps(text, ensure_ascii=False) for text in texts)
    return "".join(" " + text.replace("\\u0000", "\\x00") for text in out)


def command(line: CommandLine) -> str:
    return quoted(*line.words)


def dump(instruction: Instruction | From) -> str:
    name = type(instruction).__name__.lower()
    match instruction:
        case From(image=image, name=""):
            rest = quoted(image)
        case From(image=image, as_keyword=as_keyword, written_name=written):
            rest = quoted(image, as_keyword, written)
        case Run() | Cmd() | Entrypoint():
            rest = command(instruction.command)
        case Healthcheck(command=None):
            rest = quoted("NONE")
        case Healthcheck(command=line) if line is not None:
            rest = quoted("CMD") + command(line)
        case Copy() | Add():
            sources = [one if isinstance(one, str) else one.name for one in instruction.sources]
            rest = quoted(*sources, instruction.destination)
        case Env() | Label():
            pairs = instruction.pairs
            rest = "".join(quoted(pair.key, pair.value, "" if pair.legacy else "=") for pair in pairs)
        case Arg():
            rest = quoted(
                *(a.name if a.default is None else f"{a.name}={a.default}" for a in instruction.args)
            )
        case Volume():
            rest = quoted(*instruction.paths)
        case Expose():
            rest = quoted(*instruction.ports)
        case Workdir():
            rest = quoted(instruction.path)
        case User():
            rest = quoted(instruction.user)
        case Shell():
            rest = quoted(*instruction.words)
        case Stopsignal():
            rest = quoted(instruction.signal)
        case Maintainer():
            rest = quoted(instruction.name)
        case Onbuild(trigger=trigger):
            inner = parse(b"FROM scratch\n" + trigger.encode()).stages[0].instructions[0]
            rest = " " + dump(inner)
        case _:
            raise AssertionError(instruction)
    return f"({name}{rest})"


@pytest.mark.parametrize("case", [c for c in GOOD if c.name not in REFUSED], ids=lambda path: path.name)
def test_a_file_is_read_as_buildkit_reads_it(case: Path) -> None:
    data = (case / "Dockerfile").read_bytes()
    expected = (case / "result").read_text().splitlines()
    if b"FROM" not in data.upper():  # they try one instruction, and any file needs a stage
        data = b"FROM scratch\n" + data
        expected = ['(from "scratch")', *expected]
    file = parse(data)
    found = [dump(arg) for arg in file.args]
    for stage in file.stages:
        found += [dump(stage.base), *(dump(instruction) for instruction in stage.instructions)]
    assert found == expected


@pytest.mark.parametrize("case", BAD, ids=lambda path: path.name)
def test_a_file_is_refused_as_buildkit_refuses_it(case: Path) -> None:
    with pytest.raises(DockerfileError):
        parse((case / "Dockerfile").read_bytes())


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_only_looks_right_is_refused(name: str) -> None:
    with pytest.raises(DockerfileError, match=REFUSED[name]):
        parse((CASES / "testfiles" / name / "Dockerfile").read_bytes())


def test_cases_were_found() -> None:
    assert len(GOOD) > 20 and len(BAD) >= 4
