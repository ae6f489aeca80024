"""Effects: notices for people are posted as JSON to the URL of the settings, by a thread of their own.

Nobody waits for it: the queue is bounded, and what does not fit, or could not be delivered, is counted and
logged. What is sent are names, revisions and reasons; no value of a spec and no output of a program is in
them.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections import Counter
from dataclasses import asdict, dataclass

from agent.planner.updates import Notice

log = logging.getLogger("stead")

#: notices that wait
WAITING = 100
#: seconds before the second attempt; then it doubles
PAUSE = 1.0
#: bytes of an answer that are read
ANSWER = 4096


@dataclass(frozen=True, slots=True)
class Hook:
    """Where to, how long an attempt may take (seconds), and how many more there are after the first."""

    url: str
    timeout: float = 5.0
    retries: int = 3


class Webhook:
    """Thread-safe. `counts` has what became of notices: sent, failed, dropped."""

    def __init__(self, hook: Hook, node: str) -> None:
        self._hook, self._node = hook, node
        self._queue: queue.Queue[tuple[Notice, float] | None] = queue.Queue(WAITING)
        self._stopped = threading.Event()
        self.counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="stead-webhook", daemon=True)
        self._thread.start()

    def tell(self, notice: Notice, at: float) -> None:
        """At once; `at` is in seconds since the epoch."""
        try:
            self._queue.put_nowait((notice, at))
        except queue.Full:
            self.counts["dropped"] += 1
            log.warning("a notice about %s was dropped: %d others wait", notice.name, WAITING)

    def close(self) -> None:
        """What waits is not sent any more; an attempt that goes on ends by its timeout."""
        self._stopped.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            pass
        self._thread.join(self._hook.timeout + 1)

    def _run(self) -> None:
        while not self._stopped.is_set():
            item = self._queue.get()
            if item is None:
                return
            notice, at = item
            body = json.dumps({"node": self._node, "at": at, **asdict(notice)}).encode()
            self.counts["sent" if self._deliver(body, notice.name) else "failed"] += 1

    def _deliver(self, body: bytes, name: str) -> bool:
        for attempt in range(self._hook.retries + 1):
            if attempt and self._stopped.wait(PAUSE * 2 ** (attempt - 1)):
                return False
            try:
                self._post(body)
                return True
            except (OSError, ValueError) as error:  # urllib's and http.client's are of these
                text = str(error)
        log.warning("cannot post a notice about %s to notify.webhook: %s", name, text)
        return False

    def _post(self, body: bytes) -> None:
        """Raises OSError for whatever is not answered with 2xx; redirects are not followed: a notice is for
        the one place that the settings name."""
        import http.client
        from urllib.parse import urlsplit

        to = urlsplit(self._hook.url)
        kind = http.client.HTTPSConnection if to.scheme == "https" else http.client.HTTPConnection
        connection = kind(to.hostname or "", to.port, timeout=self._hook.timeout)
        try:
            target = (to.path or "/") + (f"?{to.query}" if to.query else "")
            connection.request("POST", target, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read(ANSWER)
            if not 200 <= answer.status < 300:
                raise OSError(f"it answered {answer.status}")
        except http.client.HTTPException as error:
            raise OSError(f"it answered nonsense: {type(error).__name__}") from error
        finally:
            connection.close()
