"""Effects: KEY=VALUE and numbers as docker's options and files have them."""

from __future__ import annotations

from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def whole(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Problem(f"cannot read {option} {text!r}: write a whole number", 125) from None


def pairs(
    files: Sequence[str],
    words: Sequence[str],
    environment: Mapping[str, str] | None,
    read: Callable[[str], str],
) -> dict[str, str]:
    """Words win over files. A word without a value has it from the environment, or is not there; a label is
    then empty (`environment` None)."""
    found: dict[str, str] = {}
    lines = [line.lstrip() for file in files for line in read(file).splitlines()]
    for word in (*(line for line in lines if line and not line.startswith("#")), *words):
        key, equals, value = word.partition("=")
        if not key or any(c.isspace() for c in key):
            raise Problem(f"cannot read {word!r}: write KEY=VALUE", 125)
        if equals or environment is None:
            found[key] = value
        elif key in environment:
            found[key] = environment[key]
    return found


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        cause = (error.strerror or "").lower() if isinstance(error, OSError) else "it is not UTF-8"
        raise Problem(f"cannot read {path}: {cause}", 125) from error
