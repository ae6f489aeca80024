"""Values: a source of spec files as the tests of specs write it, resolved."""

from __future__ import annotations

from collections.abc import Mapping

from specs.desired import Desired, DesiredContainer
from specs.resolve import resolve


def read(files: Mapping[str, str | bytes], **variables: str) -> tuple[Desired | None, list[str]]:
    """(Desired, problems as lines) of a source whose directory on the machine is /src."""
    content = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
    node = {"name": "n1", "labels": {"role": "db", "zone.a": "1"}}
    desired, problems = resolve(content, source="s", variables=variables, node=node, source_root="/src")
    assert (desired is None) == bool(problems)
    return desired, [str(problem) for problem in problems]


def desired_of(files: Mapping[str, str | bytes], **variables: str) -> Desired:
    desired, problems = read(files, **variables)
    assert problems == []
    assert desired is not None
    return desired


def container(lines: str, *, around: str = "", **variables: str) -> DesiredContainer:
    """The container p/c of the lines in its TOML table, `around` being further tables of the same file."""
    text = f'project = "p"\n[container.c]\nimage = "a"\n{lines}\n{around}\n'
    return desired_of({"c.toml": text}, **variables).containers["p/c"]


def problems(lines: str, *, around: str = "", **variables: str) -> list[str]:
    """What is wrong with it; the lines begin at line 4."""
    text = f'project = "p"\n[container.c]\nimage = "a"\n{lines}\n{around}\n'
    return read({"c.toml": text}, **variables)[1]
