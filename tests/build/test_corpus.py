"""Every Dockerfile of the corpus, built by Stead and by the engines beside it, gives what its case says."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.build import trees
from tests.build.cases import Case, load, write
from tests.build.conftest import BUILDERS
from tests.build.engines import PATH, Engine, Image

pytestmark = pytest.mark.root

CASES = load()
#: Reasons for results that are now these and now those.
UNSTEADY = {"duplicate-stages"}
SCRATCH = Image({".": trees.Entry("d", 0o755)}, {"Env": [PATH], "WorkingDir": "/"})
_numbers = itertools.count()


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.theme}: {case.name}")
def test_a_dockerfile_gives_what_its_case_says(
    case: Case, builder: str, engine_of: Callable[[str], Engine], tmp_path: Path
) -> None:
    engine = engine_of(builder)
    context, secrets = tmp_path / "context", tmp_path / "secrets"
    write(case, context)
    secrets.mkdir()
    wrong = judge(case, engine, context, secrets)
    reason = case.differs.get(engine.name)
    if reason is None:
        assert not wrong, "\n".join(wrong)
    elif reason not in UNSTEADY:
        assert wrong, f"does not differ any more ({reason})"


def judge(case: Case, engine: Engine, context: Path, secrets: Path) -> list[str]:
    """What the engine's result does not have in common with the case."""
    tag = f"case-{next(_numbers)}"
    done = engine.build(case, context, tag, secrets)
    if case.error:
        if done.code == 0:
            return [f"was built, in spite of: {case.error}"]
        wrong = [done.output] if engine.name == "stead" and case.error not in done.output else []
        return wrong + unsaid(case, done.output, engine.name)
    if done.code:
        return [f"exit code {done.code}", done.output]
    image = engine.image(tag)
    ground = engine.base if case.ground == "base" else SCRATCH
    return [*unsaid(case, done.output, engine.name), *compare(case, ground, image, engine.name)]


def unsaid(case: Case, output: str, engine: str) -> list[str]:
    wrong = [f"not said: {text}" for text in case.output if text not in output]
    wrong += [f"said: {text}" for text in case.silent if text in output]
    if engine == "stead":
        wrong += [f"not said: {text}" for text in case.warns if text not in output]
    return [*wrong, output] if wrong else []


def compare(case: Case, ground: Image, image: Image, engine: str) -> list[str]:
    wrong = []
    if case.tree is not None:
        expected = trees.parse(case.tree)
        wrong += difference(expected.lines(), trees.changes(ground.tree, image.tree, expected))
    if case.config is not None:
        wrong += difference(items({**ground.config, **case.config}), items(image.config))
    if case.history is not None and engine != "buildah":
        wrong += difference([*ground.history, *case.history], list(image.history))
    return wrong


def items(config: dict[str, Any]) -> list[str]:
    return sorted(
        f"{key} = {json.dumps(value, sort_keys=True)}" for key, value in config.items() if value != ""
    )


def difference(expected: list[str], found: list[str]) -> list[str]:
    if expected == found:
        return []
    lines = [f"- {line}" for line in expected if line not in found]
    lines += [f"+ {line}" for line in found if line not in expected]
    return lines or ["another order:", *found]


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 150


def test_each_difference_is_explained_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs/build.md").read_text().partition("## Other builders")[2]
    rows = re.findall(r"^\| `.*$", text.partition("\n## ")[0], re.MULTILINE)
    told = set()
    for row in rows:
        reason, _, buildah, buildkit, why = (cell.strip() for cell in row.strip("|").split("|"))
        assert why, row
        told |= {
            (reason.strip("`"), name) for name, cell in (("buildah", buildah), ("buildkit", buildkit)) if cell
        }
    shown = {(reason, engine) for case in CASES for engine, reason in case.differs.items()}
    assert told == shown
