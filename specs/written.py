"""Values: numbers that remember how they were written, for fields that mean text.

`VERSION: 1.10` is a number in YAML and TOML, but the variable's value is 1.10 and not 1.1; `0644` is a mode.
"""

from __future__ import annotations


class WrittenInt(int):
    written: str


class WrittenFloat(float):
    written: str


def integer(text: str, base: int = 10) -> int:
    """Plain where `str()` gives the text back."""
    value = int(text, base)
    if str(value) == text:
        return value
    out = WrittenInt(value)
    out.written = text
    return out


def decimal(text: str) -> float:
    value = float(text)
    if str(value) == text:
        return value
    out = WrittenFloat(value)
    out.written = text
    return out


def text_of(value: float) -> str:
    """As it was written."""
    return value.written if isinstance(value, WrittenInt | WrittenFloat) else str(value)
