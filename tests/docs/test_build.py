"""The page about builds names each check, each instruction and each limit as it is."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.build import graph, ignore, lines, matching, problems, stage, words
from runtime.build.dockerfile import parse
from runtime.build.graph import plan
from runtime.build.lint import kept
from runtime.build.reading import INSTRUCTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/build.md").read_text()


def test_each_check_is_documented_and_nothing_else() -> None:
    source = "".join(path.read_text() for path in (ROOT / "runtime/build").glob("*.py"))
    rules = set(re.findall(r'(?:warn\(|BuildWarning\()[^")]*"([A-Z]\w+)"', source))
    documented = re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.MULTILINE)
    assert documented == sorted(rules)


def test_each_instruction_is_documented_and_nothing_else() -> None:
    table = PAGE.partition("| instruction | |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| ([A-Z, ]+) \|", table, re.MULTILINE)
    assert sorted(name for cell in named for name in cell.split(", ")) == sorted(INSTRUCTIONS)


def test_limits_are_what_the_page_says() -> None:
    table = PAGE.partition("## Limits")[2]
    for number in (
        lines.MAX_LINES,
        lines.MAX_INSTRUCTIONS,
        lines.MAX_HEREDOCS,
        graph.MAX_STAGES,
        graph.MAX_TRIGGERS,
        words.MAX_EXPANDED,
        words.MAX_NESTING,
        problems.MAX_PROBLEMS,
        ignore.MAX_PATTERNS,
        matching.MAX_PATTERN,
    ):
        assert re.search(rf"(?<![\d,]){number:,}(?![\d,])", table), number
    for size in (lines.MAX_BYTES, stage.MAX_HISTORY, ignore.MAX_BYTES):
        assert f"{size >> 20} MiB" in table, size


def test_the_mistakes_of_the_page_read_as_it_shows_them() -> None:
    shown = re.findall(r"^Dockerfile:\d+:\d+: .*$", PAGE, re.MULTILINE)
    text = "FROM base\n\nCOPY --chwon=1 a b\n\n\n\nENTRYPONT x\n"
    try:
        parse(text.encode())
    except problems.DockerfileError as error:
        assert str(error).splitlines() == shown
    else:
        raise AssertionError("no mistake was found")


def test_skipping_a_check_by_its_documented_name_works() -> None:
    file = parse(b"# check=skip=StageNameCasing\nFROM base AS Upper\nMAINTAINER x\n")
    warnings = plan(file, build_platform="linux/amd64").warnings
    assert [warning.rule for warning in kept(file, warnings)] == ["MaintainerDeprecated"]
