"""Notices reach the URL of the settings, after failures too, and never keep anybody waiting."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from agent import webhook
from agent.planner.updates import Notice
from agent.webhook import Hook, Webhook

NOTICE = Notice("rolled-back", "shop/web", "shop", "new", "old", "container shop/web is unhealthy")


class Receiver:
    """Answers with `answers`, one after another, the last one for ever."""

    def __init__(self) -> None:
        self.answers, self.got = [200], []  # type: list[int], list[dict[str, Any]]
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                receiver.got.append(json.loads(self.rfile.read(length)))
                answers = receiver.answers
                self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=1"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PAUSE", 0.01)


def until(hook: Webhook, **wanted: int) -> None:
    deadline = time.monotonic() + 30
    while dict(hook.counts) != wanted:
        assert time.monotonic() < deadline, hook.counts
        time.sleep(0.005)


def test_a_notice_is_posted_as_json(receiver: Receiver) -> None:
    hook = Webhook(Hook(receiver.url), "edge-7")
    hook.tell(NOTICE, 5.0)
    until(hook, sent=1)
    hook.close()
    assert receiver.got == [
        {
            "node": "edge-7",
            "at": 5.0,
            "kind": "rolled-back",
            "name": "shop/web",
            "source": "shop",
            "revision": "new",
            "instead": "old",
            "reason": "container shop/web is unhealthy",
        }
    ]


def test_what_is_not_taken_is_posted_again_and_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.answers = [500, 302, 204]
    hook = Webhook(Hook(receiver.url, retries=3), "n")
    hook.tell(NOTICE, 1.0)
    until(hook, sent=1)
    hook.close()
    assert len(receiver.got) == 3


def test_what_nobody_takes_is_given_up_and_counted(receiver: Receiver) -> None:
    receiver.answers = [500]
    hook = Webhook(Hook(receiver.url, retries=1), "n")
    hook.tell(NOTICE, 1.0)
    until(hook, failed=1)
    hook.close()
    assert len(receiver.got) == 2


def test_telling_never_waits_and_what_is_too_much_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go = threading.Event(), threading.Event()

    def stuck(_self: Webhook, _body: bytes) -> None:
        entered.set()
        go.wait(10)

    monkeypatch.setattr(Webhook, "_post", stuck)
    hook = Webhook(Hook("http://127.0.0.1:1/"), "n")
    hook.tell(NOTICE, 0.0)
    assert entered.wait(10)
    begin = time.monotonic()
    for number in range(webhook.WAITING + 5):
        hook.tell(NOTICE, float(number))
    assert time.monotonic() - begin < 1.0
    assert hook.counts["dropped"] == 5
    go.set()
    hook.close()
