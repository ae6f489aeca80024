"""Values: what was measured, how it is summed up and printed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One thing measured for one engine. `unit` is ms, s, % or MiB; smaller is better."""

    what: str
    engine: str
    unit: str
    values: tuple[float, ...]
    target: float | None = None  # of Stead, from the issue that set it
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def spread(self) -> str:
        """Smallest and largest: on a shared machine the tail says more than a deviation."""
        return f"{min(self.values):.3g}-{max(self.values):.3g}" if len(self.values) > 1 else "one value"

    def as_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "engine": self.engine,
            "unit": self.unit,
            "median": self.median,
            "values": list(self.values),
            "target": self.target,
            "note": self.note,
        }


@dataclass
class Report:
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(line(row, self.ratio(row)), flush=True)

    def ratio(self, row: Row) -> float | None:
        """How many times as long (or large) as Stead's, where Stead's is known already."""
        for other in self.rows:
            if other.what == row.what and other.engine == "stead" and row.engine != "stead" and other.median:
                return row.median / other.median
        return None


def line(row: Row, ratio: float | None) -> str:
    text = f"{row.what:<40} {row.engine:<7} {row.median:>8.3g} {row.unit:<4}"
    text += f"{row.spread():>16}  n={len(row.values)}"
    if row.target is not None:
        text += f"  target {row.target:g}"
    if ratio is not None:
        text += f"  {ratio:.1f} x stead"
    return text + (f"  ({row.note})" if row.note else "")
