"""Decisions: the JSON Schema of a spec file, for editors and for the reference docs."""

from __future__ import annotations

from typing import Any

from specs.documents import SpecFile


def json_schema() -> dict[str, Any]:
    """Draft 2020-12. What is not supported yet says so in its description and has `x-supported: false`."""
    schema = SpecFile.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stead spec",
        **{key: value for key, value in schema.items() if key != "title"},
        "patternProperties": {"^x-": {}},
    }
