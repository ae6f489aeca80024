"""Values: why a command of the low-level runtime failed, and with which exit code."""

from __future__ import annotations


class OciFailure(Exception):
    """One line for people and for the engine that called. `code` is the exit code: 1, or 255 of `exec`."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message, self.code = message, code


def explain(error: OSError) -> str:
    """What failed, on which object and why."""
    where = f" ({error.filename})" if error.filename else ""
    text = error.strerror or str(error)
    return f"{text[:1].lower()}{text[1:]}{where}"
