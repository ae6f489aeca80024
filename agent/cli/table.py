"""Decisions: rows as text in columns, times and sizes as people read them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned, two spaces apart, the last column as long as it is."""
    table = [list(head), *map(list, rows)]
    widths = [max(len(row[index]) for row in table) for index in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


def count(text: str) -> int:
    """For argparse: a number of lines, 1 or more."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def age(seconds: float) -> str:
    """The two largest units: 5s, 3m 20s, 4h 5m, 2d 7h."""
    left = int(max(0.0, seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
