"""Every setting, metric, fault code and command is documented, and nothing else is."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from agent import metrics
from agent.cli.main import COMMANDS
from agent.settings import Settings
from agent.view import Counters, View
from runtime import bundle
from runtime.faults import CODES, TRANSIENT
from runtime.observations import Sample

ROOT = Path(__file__).resolve().parents[2]


def first_cells(page: str) -> list[str]:
    """The code of the first cell of every row of every table."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


def model_in(kind: Any) -> type[BaseModel] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    found = [model_in(part) for part in get_args(kind)] if get_origin(kind) in (list, dict) else []
    return next((part for part in found if part is not None), None)


def setting_keys() -> list[str]:
    keys = []
    for table, field in Settings.model_fields.items():
        model = model_in(field.annotation)
        assert model is not None, table
        keys += [f"{table}.{key}" for key in model.model_fields]
    return keys


def test_each_setting_is_documented_and_nothing_else() -> None:
    assert sorted(first_cells("settings.md")) == sorted(setting_keys())


def test_each_fault_is_documented_with_its_meaning_and_whether_it_passes() -> None:
    text = (ROOT / "docs/faults.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \| (yes|no) \| (.+?) \|$", text, re.MULTILINE)
    wanted = {code: (meaning, "yes" if code in TRANSIENT else "no") for code, meaning in CODES.items()}
    assert {code: (meaning, passes) for code, meaning, passes, _ in rows} == wanted
    assert len(rows) == len(CODES)


def test_each_command_is_documented_and_nothing_else() -> None:
    groups = {name: import_module(f"agent.cli.{module}") for name, (module, _, _) in COMMANDS.items()}
    verbs = [f"{name} {verb}" for name, module in groups.items() for verb in getattr(module, "VERBS", ())]
    assert sorted(cell.removeprefix("stead ") for cell in first_cells("commands.md")) == sorted(
        [*COMMANDS, *verbs]
    )


def test_each_metric_is_documented_and_nothing_else() -> None:
    view = View(counters=Counters(), samples=(Sample("1", "shop/web", "web:1"),))
    types = re.findall(r"^# TYPE (\S+) \S+$", metrics.render(view).decode(), re.MULTILINE)
    assert sorted(first_cells("metrics.md")) == sorted(types)


def test_each_dependency_is_documented_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=;\s]", line)[0] for line in project["dependencies"]}
    table = (ROOT / "docs/dependencies.md").read_text()
    cells = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[1:]
    assert {name.strip() for cell in cells for name in cell.split(",")} == wanted


def test_what_a_container_gets_is_documented() -> None:
    text = (ROOT / "docs/isolation.md").read_text()
    assert sorted(re.findall(r"`(CAP_[A-Z_]+)`", text)) == sorted(bundle.DEFAULT_CAPABILITIES)
    paths = [*bundle.MASKED, *bundle.READ_ONLY]
    assert sorted(re.findall(r"`(/(?:proc|sys)/[^`]+)`", text)) == sorted(paths)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
