"""One call in many threads."""

from __future__ import annotations

import threading
from collections.abc import Callable


def at_once(count: int, call: Callable[[], object]) -> list[BaseException]:
    """What went wrong in those threads, when all have ended."""
    wrong: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong
