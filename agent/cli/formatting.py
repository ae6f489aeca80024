"""Decisions: lists as docker prints them: a table, a template a row, or JSON a row.

Cells come from images of strangers: what a terminal would obey is shown, not sent.
"""

from __future__ import annotations

import json
import re

from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

PADDING = 3  # blanks between two columns
NARROWEST = 10  # characters of a column with its padding
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def lines(
    rows: Iterable[Mapping[str, Any]], format: str, heads: Mapping[str, str], default: Sequence[str]
) -> Iterable[str]:
    """`format` is empty or "table" (the fields `default`), "table TEMPLATE", "json" or a template; `heads`
    are the titles of the fields. Raises Problem, which says where the template is wrong."""
    form = format.strip()
    if form in ("", "table"):
        cells = [[_cell(row[name]) for name in default] for row in rows]
        return aligned([[heads[name] for name in default], *cells])
    if form == "json":
        return (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    from agent.cli.template import Template, TemplateError

    try:
        if not form.startswith("table"):
            template = Template.read(format)
            return [template.render(row) for row in rows]
        template = Template.read(form.removeprefix("table").lstrip(" "))
        shown = [_shown(row) for row in rows]
        return aligned(
            [template.heads(heads).split("\t"), *(template.render(row).split("\t") for row in shown)]
        )
    except TemplateError as error:
        raise Problem(f"cannot read format {format!r}: {error}", 2) from error


def one(document: Mapping[str, Any], format: str) -> str:
    """A single thing by a template, or "json". Raises Problem, which says where the template is wrong."""
    from agent.cli.template import Template, TemplateError
    from agent.cli.template_functions import Written

    if format.strip() == "json":
        shown = document.document if isinstance(document, Written) else document
        return json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
    try:
        return Template.read(format).render(document)
    except TemplateError as error:
        raise Problem(f"cannot read format {format!r}: {error}", 2) from error


def _shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    from agent.cli.template_functions import Labelled

    cells = {key: _cell(value) for key, value in row.items()}
    if isinstance(row, Labelled):
        return Labelled(cells, {key: visible(value) for key, value in row.labels.items()})
    return cells


def _cell(value: Any) -> Any:
    return visible(value) if isinstance(value, str) else value


def visible(text: str) -> str:
    """Control characters as escapes."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell and PADDING, the last one as it is."""
    count = max((len(row) for row in rows), default=0)
    widths = [
        max(NARROWEST, max(len(row[index]) for row in rows if index < len(row)) + PADDING)
        for index in range(count)
    ]
    return [
        "".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False))][:-1]) + row[-1]
        for row in rows
    ]


def size(number: float, digits: int = 3) -> str:
    """Of a decimal unit, as docker: 0B, 4.26MB, 123MB."""
    unit = 0
    while unit < len(_UNITS) - 1 and float(f"{number:.{digits}g}") >= 1000:
        number /= 1000
        unit += 1
    return f"{float(f'{number:.{digits}g}'):.{digits}f}".rstrip("0").rstrip(".") + _UNITS[unit]


def duration(seconds: float) -> str:
    """As docker says it: "About an hour", "3 weeks"."""
    minutes, hours = int(seconds / 60), int(seconds / 3600 + 0.5)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for most, unit, name in ((336, 24, "days"), (1440, 168, "weeks"), (17520, 720, "months")):
        if hours < most:
            return f"{hours // unit} {name}"
    return f"{int(seconds / 3600) // 8760} years"


def ellipsis(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
