"""docs/specs.md holds every key of a spec, says which ones are not supported yet, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_origin

from pydantic import BaseModel

from specs.documents import KINDS, SpecFile
from specs.resolve import resolve

PAGE = (Path(__file__).resolve().parents[2] / "docs/specs.md").read_text()
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]*) \| ([^|]*)\| ([^|]*)\|$", re.MULTILINE)


def shapes(annotation: object) -> list[tuple[str, type[BaseModel]]]:
    """(what stands between the field and the model's keys, model) for every model in the annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [("", annotation)]
    between = {list: "[]", dict: ".NAME"}.get(get_origin(annotation) or object, "")
    return [(between + rest, model) for part in get_args(annotation) for rest, model in shapes(part)]


def written_keys() -> dict[str, tuple[bool, bool]]:
    """key -> (not supported yet, required). A model that is used twice stands at its first place."""
    keys: dict[str, tuple[bool, bool]] = {}
    todo: list[tuple[str, type[BaseModel], bool]] = [("", SpecFile, False)]
    seen: list[type[BaseModel]] = []
    while todo:
        prefix, model, above = todo.pop(0)
        if any(issubclass(one, model) for one in seen):
            continue
        seen.append(model)
        for name, field in model.model_fields.items():
            key = prefix + (field.alias or name)
            later = above or field.json_schema_extra is not None
            keys[key] = (later, field.is_required())
            for between, inner in shapes(field.annotation):
                todo.append((f"{key}{'' if prefix == '' else between}.", inner, later))
    return keys


def rows() -> list[tuple[str, str, str, str]]:
    return [found for found in ROW.findall(PAGE) if found[0].split(".")[0] in (*KINDS, "project")]


def test_each_key_of_a_spec_is_documented_once_and_nothing_else() -> None:
    assert sorted(row[0] for row in rows()) == sorted(written_keys())


def test_the_page_says_what_is_not_supported_yet_and_what_is_required() -> None:
    keys = written_keys()
    for key, _, default, meaning in rows():
        later, required = keys[key]
        assert ("not supported yet**" in meaning) == later, key
        assert not required or "required" in default, key


def test_the_example_of_the_page_is_read() -> None:
    start = PAGE.index('    project = "shop"')
    lines = PAGE[start : PAGE.index("The same in YAML")].splitlines()
    text = "\n".join(line[4:] for line in lines).replace("@sha256:...", f"@sha256:{'0' * 64}")
    desired, problems = resolve({"shop.toml": text.encode(), "db.env": b"A=1\n"}, source="s", variables={})
    assert problems == ()
    assert desired is not None
    assert sorted(desired.containers) == ["shop/db", "shop/web"]
