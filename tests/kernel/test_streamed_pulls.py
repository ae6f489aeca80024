"""Layers are unpacked while they come and side by side; what that could break is tried. Real kernel."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.faults import Fault
from tests.crash.bomb import children
from tests.kernel.fake_registry import Answer, Fake, Request
from tests.kernel.images_box import Box, digest, directory, file, hardlink, layer, ref

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
COMMAND = [sys.executable, "-c", "from agent.cli.main import main; raise SystemExit(main())"]

LOWER = layer(directory("d", uid=7, mode=0o2750), file("d/low", os.urandom(400_000)), file("hidden", "x"))
UPPER = layer(hardlink("linked", "d/low"), file("d/up", os.urandom(400_000)), file(".wh.hidden"))


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def blobs_of(fake: Fake) -> list[str]:
    """The layers' blobs, bottom first."""
    manifest = json.loads(fake.files["manifests/1"])
    return [item["digest"] for item in manifest["layers"]]


def holding(fake: Fake, blob: str, gate: threading.Event) -> Callable[[Request], Answer]:
    """The fake's answers, but half of one blob is held back."""

    def answer(request: Request) -> Answer:
        found = fake.plain(request)
        if blob in request.path:
            found.gate = gate
        return found

    return answer


def in_background(box: Box, fake: Fake, errors: list[BaseException]) -> threading.Thread:
    def pull() -> None:
        try:
            box.store.pull(fake.ref)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    return thread


def check_both(box: Box) -> None:
    image = box.store.list()[0].id
    with box.mounted(image) as merged:
        assert (merged / "linked").read_bytes() == (merged / "d/low").read_bytes()
        assert (merged / "d/up").stat().st_size == 400_000
        assert not (merged / "hidden").exists()
        status = (merged / "d").stat()
        assert (oct(status.st_mode), status.st_uid) == (oct(0o42750), 7)


def test_a_layer_is_unpacked_while_it_comes_and_not_seen_before_it_is_whole(box: Box, fake: Fake) -> None:
    content = layer(file("first", "x"), file("rest", os.urandom(3_000_000)))
    fake.image(content)
    gate, errors = threading.Event(), list[BaseException]()
    fake.answer = holding(fake, blobs_of(fake)[0], gate)
    thread = in_background(box, fake, errors)
    try:
        half_made = box.paths.layers / f".{digest(content)[7:]}"
        until((half_made / "first").exists, "nothing of the layer is unpacked before all has come")
        assert box.store.layers.chain_ids() == []
        assert box.store.list() == []
    finally:
        gate.set()
        thread.join()
    assert errors == []
    assert box.store.layers.chain_ids() == [digest(content)]


def test_a_layer_that_is_done_first_waits_for_those_below(box: Box, fake: Fake) -> None:
    fake.image(LOWER, UPPER)
    gate, errors = threading.Event(), list[BaseException]()
    lower, upper = blobs_of(fake)
    fake.answer = holding(fake, lower, gate)
    thread = in_background(box, fake, errors)
    try:
        until(lambda: box.store.blobs.has(upper), "the upper layer comes")
        assert box.store.layers.chain_ids() == []
    finally:
        gate.set()
        thread.join()
    assert errors == []
    check_both(box)


def test_layers_may_come_in_any_order(box: Box, fake: Fake) -> None:
    fake.image(LOWER, UPPER)
    gate, errors = threading.Event(), list[BaseException]()
    _, upper = blobs_of(fake)
    fake.answer = holding(fake, upper, gate)
    thread = in_background(box, fake, errors)
    try:
        until(lambda: digest(LOWER) in box.store.layers.chain_ids(), "the lower layer is finished")
    finally:
        gate.set()
        thread.join()
    assert errors == []
    check_both(box)


def test_bytes_that_change_on_the_way_are_the_digests_fault_and_come_anew(box: Box, fake: Fake) -> None:
    fake.image(LOWER)
    blob = blobs_of(fake)[0]
    good = fake.files[f"blobs/{blob}"]
    fake.files[f"blobs/{blob}"] = good[:5000] + b"\xff" * 100 + good[5100:]
    with pytest.raises(Fault) as caught:
        box.store.pull(fake.ref)
    assert caught.value.code == "digest-mismatch"
    assert os.listdir(box.paths.layers) == []
    fake.files[f"blobs/{blob}"] = good
    assert box.store.pull(fake.ref)


def test_what_was_wrong_of_an_earlier_attempt_is_unpacked_anew_with_what_comes_for_it(
    box: Box, fake: Fake
) -> None:
    fake.image(LOWER)
    blob = blobs_of(fake)[0]
    good = fake.files[f"blobs/{blob}"]
    partial = box.paths.blobs.with_name("partial")
    partial.mkdir()
    (partial / blob[7:]).write_bytes(good[:100_000] + bytes(200_000))
    image = box.store.pull(fake.ref)
    (found,) = box.store.ensure_layers(image)
    assert (found / "d/low").stat().st_size == 400_000
    ranges = [request.headers.get("Range") for request in fake.requests if blob in request.path]
    assert ranges == ["bytes=300000-", None]


def test_a_wrong_layer_ends_what_is_made_of_the_others(box: Box, fake: Fake) -> None:
    fake.image(layer(file("../out", "x")), UPPER, LOWER)
    gate = threading.Event()
    fake.answer = holding(fake, blobs_of(fake)[2], gate)
    try:
        with pytest.raises(Fault, match=r"entry '\.\./out'"):
            timer = threading.Timer(0.5, gate.set)
            timer.start()
            box.store.pull(fake.ref)
    finally:
        gate.set()
        timer.join()
    assert os.listdir(box.paths.layers) == os.listdir(box.paths.blobs) == []


def test_a_store_that_is_closed_ends_its_pulls(box: Box, fake: Fake) -> None:
    fake.image(*(layer(file(f"f{index}", os.urandom(200_000))) for index in range(6)))
    gate, errors = threading.Event(), list[BaseException]()
    layers = blobs_of(fake)

    def answer(request: Request) -> Answer:
        is_layer = any(blob in request.path for blob in layers)
        return replace(fake.plain(request), gate=gate if is_layer else None)

    fake.answer = answer
    thread = in_background(box, fake, errors)
    until(
        lambda: sum(blob in request.path for request in fake.requests for blob in layers) == 3,
        "as many layers as may come at once do",
    )
    closer = threading.Thread(target=box.store.close)
    closer.start()
    until(box.store.registries.closing.is_set, "it is being closed")
    gate.set()
    thread.join(30)
    closer.join(30)
    assert not thread.is_alive() and not closer.is_alive()
    (error,) = errors
    assert isinstance(error, Fault) and error.code == "registry-unreachable"
    assert "cancelled" in str(error)
    for blob in blobs_of(fake):
        box.store.blobs.abandon(blob)


def test_an_image_that_several_want_comes_once(box: Box, fake: Fake) -> None:
    fake.image(LOWER, UPPER)
    errors: list[BaseException] = []
    threads = [in_background(box, fake, errors) for _ in range(4)]
    for thread in threads:
        thread.join()
    assert errors == []
    for blob in blobs_of(fake):
        assert sum(blob in request.path for request in fake.requests) == 1, blob
    check_both(box)


def test_who_waits_for_an_image_fails_as_the_one_who_brings_it(box: Box, fake: Fake) -> None:
    fake.image(LOWER, layer(file("../out", "x")))
    errors: list[BaseException] = []
    threads = [in_background(box, fake, errors) for _ in range(3)]
    for thread in threads:
        thread.join()
    assert [error.code for error in errors if isinstance(error, Fault)] == ["layer-invalid"] * 3
    assert os.listdir(box.paths.layers) == []


def command(root: Path, *words: str) -> subprocess.Popen[str]:
    place = ["--root", str(root / "root"), "--run", str(root / "run")]
    return subprocess.Popen(
        [*COMMAND, *place, "image", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_that_want_an_image_bring_its_layers_once(tmp_path: Path, fake: Fake) -> None:
    fake.image(LOWER, UPPER)
    running = [command(tmp_path, "pull", "-q", str(fake.ref)) for _ in range(2)]
    for process in running:
        out, trouble = process.communicate(timeout=60)
        assert (process.returncode, out, trouble) == (0, f"{fake.ref}\n", "")
    for blob in blobs_of(fake):
        assert sum(blob in request.path for request in fake.requests) == 1, blob


def test_a_pull_killed_in_a_download_goes_on_where_it_was_and_leaves_nothing(
    tmp_path: Path, fake: Fake
) -> None:
    content = layer(file("first", "x"), file("rest", os.urandom(3_000_000)))
    fake.image(content)
    (blob,) = blobs_of(fake)
    gate = threading.Event()
    fake.answer = holding(fake, blob, gate)
    process = command(tmp_path, "pull", "-q", str(fake.ref))
    layers = tmp_path / "root/layers"
    try:
        until((layers / f".{digest(content)[7:]}" / "first").exists, "the layer is begun")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        gate.set()
    fake.answer = fake.plain
    fake.requests.clear()
    with command(tmp_path, "pull", "-q", str(fake.ref)) as process:
        assert process.wait(60) == 0
    (asked,) = [request for request in fake.requests if blob in request.path]
    assert int(asked.headers["Range"].removeprefix("bytes=").rstrip("-")) > 100_000
    assert os.listdir(layers) == [digest(content)[7:]]
    assert os.listdir(tmp_path / "root/blobs/partial") == []


def test_a_worker_that_is_killed_is_said_and_leaves_nothing(box: Box, fake: Fake) -> None:
    content = layer(file("first", "x"), file("rest", os.urandom(3_000_000)))
    fake.image(content)
    gate, errors = threading.Event(), list[BaseException]()
    fake.answer = holding(fake, blobs_of(fake)[0], gate)
    thread = in_background(box, fake, errors)
    half_made = box.paths.layers / f".{digest(content)[7:]}"
    try:
        until((half_made / "first").exists, "the layer is begun")
        (worker,) = [pid for pid in children(os.getpid()) if is_worker(pid, half_made)]
        os.kill(worker, signal.SIGKILL)
    finally:
        gate.set()
        thread.join()
    (error,) = errors
    assert isinstance(error, Fault) and error.code == "kernel-error"
    assert "the worker died" in str(error)
    assert os.listdir(box.paths.layers) == []
    fake.answer = fake.plain
    assert box.store.pull(fake.ref)


def is_worker(pid: int, target: Path) -> bool:
    return os.fsencode(target) in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_command_tells_of_every_layer_and_of_what_it_was_for(tmp_path: Path, fake: Fake) -> None:
    manifest = fake.image(LOWER, UPPER)
    with command(tmp_path, "pull", str(fake.ref), f"{fake.address}/none:1") as process:
        out, trouble = process.communicate(timeout=60)
    assert process.returncode == 1
    assert trouble.startswith(f"stead: cannot pull image {fake.address}/none:1")
    lines = out.splitlines()
    shorts = [blob[7:19] for blob in blobs_of(fake)]
    assert lines[:3] == ["1: Pulling from app", *(f"{short}: Pulling fs layer" for short in shorts)]
    for short in shorts:
        assert lines.index(f"{short}: Download complete") < lines.index(f"{short}: Pull complete")
    status = f"Status: Downloaded newer image for {fake.address}/app:1"
    assert lines[7:10] == [f"Digest: {manifest}", status, str(fake.ref)]
    with command(tmp_path, "pull", str(fake.ref)) as process:
        out, _ = process.communicate(timeout=60)
    assert f"Status: Image is up to date for {fake.address}/app:1" in out.splitlines()


def test_a_terminal_shows_a_bar_for_every_layer(tmp_path: Path, fake: Fake) -> None:
    fake.image(LOWER, UPPER)
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    place = ["--root", str(tmp_path / "root"), "--run", str(tmp_path / "run")]
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(
        [*COMMAND, *place, "image", "pull", str(fake.ref)], stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(ours, 65536):
                shown += data
    os.close(ours)
    assert process.returncode == 0
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).splitlines()
    for blob in blobs_of(fake):
        lines = [line for line in last if line.startswith(f"{blob[7:19]}: ")]
        assert "Pull complete" in lines[-1] and "━" in lines[-1], lines


def test_what_a_pull_would_take_is_told_without_a_layer(box: Box, fake: Fake) -> None:
    fake.image(LOWER, UPPER)
    sizes = [len(fake.files[f"blobs/{blob}"]) for blob in blobs_of(fake)]
    need = box.store.measure(fake.ref)
    assert (need.download, need.unpacked) == (sum(sizes), 3 * sum(sizes))
    assert not any(blob in request.path for request in fake.requests for blob in blobs_of(fake))
    box.store.pull(fake.ref)
    assert box.store.measure(fake.ref) == type(need)(0, 0)
    fake.image(LOWER, layer(file("other", os.urandom(50_000))))
    size = len(fake.files[f"blobs/{blobs_of(fake)[1]}"])
    assert box.store.measure(ref(str(fake.ref))) == type(need)(size, 3 * size)
