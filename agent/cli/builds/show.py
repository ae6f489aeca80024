"""Effects: a build as it goes on, on standard error: lines for files, a moving picture for terminals,
JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.build.failure import StepFailed
    from runtime.build.request import BuildEvent

#: Seconds between two pictures on a terminal, and lines of output shown of a step that runs.
INTERVAL, LINES = 0.1, 6


class Shown:
    """Shows nothing; the others show more. `titles` are those of the steps so far."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def event(self, event: BuildEvent) -> None:
        if event.kind == "start" and not event.text.startswith("exporting"):
            self.titles.append(event.text)
        self.show(event)

    def show(self, event: BuildEvent) -> None:
        pass

    def close(self) -> None:
        """The last picture stays. Repeatable."""


class Plain(Shown):
    """`#7 0.123 text`, as BuildKit writes it."""

    def __init__(self) -> None:
        super().__init__()
        self._last = 0

    def show(self, event: BuildEvent) -> None:
        if self._last and self._last != event.vertex:
            print(file=sys.stderr)
        self._last = event.vertex
        print(_line(event), file=sys.stderr, flush=True)


def _line(event: BuildEvent) -> str:
    number = f"#{event.vertex}"
    match event.kind:
        case "start":
            return f"{number} {event.text}"
        case "output":
            return f"{number} {event.seconds:.3f} {event.text}"
        case "cached":
            return f"{number} CACHED"
        case "done":
            return f"{number} DONE {event.seconds:.1f}s"
        case "error":
            return f"{number} ERROR: {event.text}"
        case "warning":
            return f"WARN: {event.text}"
        case _:
            return f"{number} {event.text}"


class RawJson(Shown):
    """One JSON object an event."""

    def show(self, event: BuildEvent) -> None:
        document = {"vertex": event.vertex, "kind": event.kind, "text": event.text}
        print(json.dumps({**document, "seconds": round(event.seconds, 6)}), file=sys.stderr, flush=True)


class Terminal(Shown):
    """Steps that ended go up and stay; those that run are drawn again below them, with their last lines."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._running: dict[int, tuple[str, float, list[str]]] = {}
        self._drawn, self._next, self._ended = 0, 0.0, 0

    def show(self, event: BuildEvent) -> None:
        match event.kind:
            case "start":
                self._running[event.vertex] = (event.text, time.monotonic(), [])
            case "output" | "note":
                if event.vertex in self._running:
                    lines = self._running[event.vertex][2]
                    lines.append(event.text)
                    del lines[:-LINES]
            case "cached" | "done" | "error":
                self._end(event)
                return
            case "warning":
                self._above(f"\x1b[33mWARN: {event.text}\x1b[0m")
                return
        if time.monotonic() >= self._next:
            self._draw()

    def _end(self, event: BuildEvent) -> None:
        title, began, _ = self._running.pop(event.vertex, (event.text, time.monotonic(), []))
        self._ended += 1
        spent = f"{time.monotonic() - began:.1f}s"
        if event.kind == "error":
            self._above(f"\x1b[31m => ERROR {title}\x1b[0m", spent)
        else:
            self._above(f"\x1b[34m => {'CACHED ' if event.kind == 'cached' else ''}{title}\x1b[0m", spent)

    def _above(self, text: str, right: str = "") -> None:
        self._erase()
        width = shutil.get_terminal_size().columns
        shown = text if len(text) < width else text[: width - 12] + "\x1b[0m"
        sys.stderr.write(f"{shown}{' ' if right else ''}{right}\n")
        self._draw()

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _draw(self) -> None:
        self._erase()
        width = shutil.get_terminal_size().columns - 1
        now = time.monotonic()
        lines = [f"[+] Building {now - self._began:.1f}s ({self._ended}/{self._ended + len(self._running)})"]
        for title, began, output in self._running.values():
            lines.append(f" => {title} {now - began:.1f}s")
            lines += [f" => => # {line}" for line in output]
        room = max(1, shutil.get_terminal_size().lines - 1)
        lines = [_flat(line)[:width] for line in lines[:room]]
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
        self._drawn, self._next = len(lines), now + INTERVAL

    def close(self) -> None:
        self._erase()
        sys.stderr.flush()


def _flat(text: str) -> str:
    """Without what would move the cursor."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def chosen(kind: str) -> Shown:
    """`auto` is tty on a terminal, else plain."""
    if kind == "auto":
        kind = "tty" if os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb" else "plain"
    shown: dict[str, type[Shown]] = {"plain": Plain, "tty": Terminal, "rawjson": RawJson}
    return shown.get(kind, Shown)()


def failure(failed: StepFailed) -> str:
    """The step and its last lines, above the error itself."""
    lines = ["------", f" > [{failed.stage}] {failed.title}:" if failed.stage else f" > {failed.title}:"]
    return "\n".join([*lines, *failed.tail, "------"])
