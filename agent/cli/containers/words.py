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
    """As `asked`, without those that have no value."""
    found = asked(files, words, environment, read)
    return {key: value for key, value in found.items() if value is not None}


def asked(
    files: Sequence[str],
    words: Sequence[str],
    environment: Mapping[str, str] | None,
    read: Callable[[str], str],
) -> dict[str, str | None]:
    """Words win over files. A word without a value has it from the environment, None where that has none; a
    label is then empty (`environment` None)."""
    found: dict[str, str | None] = {}
    lines = [line.lstrip() for file in files for line in read(file).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    for number, word in enumerate((*lines, *words)):
        key, equals, value = word.partition("=")
        if not key or (number < len(lines) and any(c.isspace() for c in key)):  # as docker, of files only
            raise Problem(f"cannot read {word!r}: write KEY=VALUE", 125)
        found[key] = value if equals or environment is None else environment.get(key)
    return found


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        cause = (error.strerror or "").lower() if isinstance(error, OSError) else "it is not UTF-8"
        raise Problem(f"cannot read {path}: {cause}", 125) from error
