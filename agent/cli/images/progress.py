"""Effects: how a pull is shown: bars on a terminal, plain lines elsewhere, in docker's words."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, nullcontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Any

    from runtime.interface import Progress, ProgressCallback

WORDS = {
    "exists": "Already exists",
    "wait": "Pulling fs layer",
    "download": "Downloading",
    "extract": "Extracting",
    "ready": "Pull complete",
}


def short(digest: str) -> str:
    return digest.partition(":")[2][:12]


def shown(quiet: bool) -> AbstractContextManager[ProgressCallback | None]:
    """What to give to a pull, valid inside the context. Quiet: nothing at all."""
    if quiet:
        return nullcontext()
    return _bars() if sys.stdout.isatty() else nullcontext(Lines())


class Lines:
    """A line whenever a layer is at another stage; how far it is nobody sees who reads them later."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()
        self._downloaded: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, progress: Progress) -> None:
        with self._lock:  # layers come side by side
            self._tell(progress)

    def _tell(self, progress: Progress) -> None:
        what, words = progress.what, WORDS.get(progress.what, "")
        if what == "download":
            if progress.done < progress.total or progress.layer in self._downloaded:
                return
            self._downloaded.add(progress.layer)
            words = "Download complete"
        if what == "extract" or not words or (progress.layer, words) in self._told:
            return
        self._told.add((progress.layer, words))
        print(f"{short(progress.layer)}: {words}", flush=True)


@contextmanager
def _bars() -> Iterator[ProgressCallback]:
    from rich import progress as rich

    columns: list[Any] = [
        rich.TextColumn("{task.description}: {task.fields[words]:<17}"),
        rich.BarColumn(30),
        rich.DownloadColumn(binary_units=True),
        rich.TransferSpeedColumn(),
    ]
    with rich.Progress(*columns) as shown:
        yield Bars(shown)


class Bars:
    """A bar a layer: of its download first, then of its unpacking, which mostly is nearly as far by then."""

    def __init__(self, shown: Any) -> None:
        self._shown = shown
        self._tasks: dict[str, Any] = {}
        self._downloaded: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, progress: Progress) -> None:
        with self._lock:  # layers come side by side
            self._tell(progress)

    def _tell(self, progress: Progress) -> None:
        layer, what = progress.layer, progress.what
        if layer not in self._tasks:
            self._tasks[layer] = self._shown.add_task(short(layer), total=progress.total or None, words="")
        if what == "download" and progress.done >= progress.total:
            self._downloaded.add(layer)
        if what == "extract" and layer not in self._downloaded and progress.done < progress.total:
            return  # the download is shown
        done = progress.total if what in ("exists", "ready") else progress.done
        self._shown.update(self._tasks[layer], completed=done, words=WORDS.get(what, ""))
