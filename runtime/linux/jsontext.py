"""Decisions: JSON by the interpreter's own C code, without the regular expressions that `json` imports: those
take as long as a whole command of the low-level runtime.

The C code is private to CPython: where it is another, `json` does the work.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def decode(data: bytes) -> Any:
    """The value of a whole document. ValueError says where it is none."""
    text = data.decode("utf-8", "surrogatepass").strip(" \t\r\n")
    try:
        from _json import make_scanner

        value, end = make_scanner(_Context)(text, 0)  # type: ignore[arg-type]
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (ImportError, AttributeError, TypeError, StopIteration, SystemError):
        # SystemError: the C code looks for the exception in `json`, and does not load that
        import json

        return json.loads(text)
    if end != len(text):
        raise ValueError(f"extra data at character {end}")
    return value


def encode(value: Any) -> bytes:
    """On one line, ASCII only."""
    try:
        from _json import encode_basestring_ascii, make_encoder

        parts = make_encoder({}, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True)(
            value, 0
        )
    except (ImportError, AttributeError):
        import json

        return json.dumps(value).encode()
    return "".join(parts).encode()


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


class _Context:
    """What json.decoder.JSONDecoder tells its scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012
