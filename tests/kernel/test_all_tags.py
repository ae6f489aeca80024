"""`stead image pull --all-tags`: what a registry lists, in one page or many, and what it should not list."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli.main import main
from runtime.faults import Fault
from runtime.images import tags
from tests.kernel.fake_registry import CONTENT, Answer, Fake, Request
from tests.kernel.images_box import BASE, Box, Layout, LocalRegistry, needs_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def offer(fake: Fake, *names: str, first: str = "1") -> None:
    """The fake's image under several tags."""
    fake.image(CONTENT)
    for name in names:
        fake.files[f"manifests/{name}"] = fake.files["manifests/1"]
    fake.files[f"tags/list?n={tags.PAGE}"] = json.dumps({"name": "app", "tags": [first, *names]}).encode()


def pulled(box: Box, *words: str) -> int:
    return main(["--root", str(box.paths.root), "--run", str(box.paths.run), "image", "pull", *words])


def names(box: Box) -> list[str]:
    found = [name for image in box.store.list() for name in image.names]
    return sorted(name.rpartition(":")[2] for name in found if "@" not in name)


def test_every_tag_of_the_repository_is_pulled(
    box: Box, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(fake, "2", "latest")
    assert pulled(box, "-a", "-q", f"{fake.address}/app") == 0
    assert names(box) == ["1", "2", "latest"]
    assert capsys.readouterr().out.split() == [f"{fake.address}/app:{tag}" for tag in ("1", "2", "latest")]
    assert len([request for request in fake.requests if "/blobs/" in request.path]) == 2, (
        "config and layer, once"
    )


@needs_registry
def test_a_real_registry_lists_what_was_pushed(box: Box, registry: LocalRegistry, tmp_path: Path) -> None:
    name = f"{registry.address}/many/app"
    layout = Layout(tmp_path / "layout")
    layout.image([BASE])
    for tag in ("a", "b", "c"):
        registry.push(layout.path, "test", f"many/app:{tag}")
    assert pulled(box, "--all-tags", name) == 0
    assert names(box) == ["a", "b", "c"]


@pytest.mark.parametrize("whole", [False, True], ids=["path", "url"])
def test_a_list_in_pages_is_read_to_its_end(box: Box, fake: Fake, whole: bool) -> None:
    def answer(request: Request) -> Answer:
        number = int(request.path.partition("last=")[2] or 0)
        body = json.dumps({"name": "app", "tags": [f"t{number}", f"u{number}"]}).encode()
        if number == 3:
            return Answer(body)
        target = f"/v2/app/tags/list?n=2&last={number + 1}"
        target = f"http://{fake.address}{target}" if whole else target
        return Answer(body, headers={"Link": f'<{target}>; rel="next"'})

    fake.answer = answer
    found = [item.tag for item in box.store.registries.tags(fake.ref)]
    assert found == ["t0", "t1", "t2", "t3", "u0", "u1", "u2", "u3"]
    assert len(fake.requests) == 4


def test_a_list_that_breaks_off_is_asked_for_again(box: Box, fake: Fake) -> None:
    offer(fake, "2")
    asked: list[str] = []

    def answer(request: Request) -> Answer:
        found = fake.plain(request)
        if "tags/list" in request.path:
            asked.append(request.path)
            found.cut = 5 if len(asked) == 1 else 0
        return found

    fake.answer = answer
    assert [item.tag for item in box.store.registries.tags(fake.ref)] == ["1", "2"]
    assert len(asked) == 2


def endless(request: Request) -> Answer:
    """A new page for ever, with new tags."""
    number = int(request.path.partition("last=")[2] or 0)
    page = [f"t{number}-{index}" for index in range(5000)]
    link = {"Link": f'</v2/app/tags/list?last={number + 1}>; rel="next"'}
    return Answer(json.dumps({"tags": page}).encode(), headers=link)


def listing(body: object, **headers: str) -> Callable[[Request], Answer]:
    return lambda _: Answer(json.dumps(body).encode(), headers=headers)


SAME = '</v2/app/tags/list?last=1>; rel="next"'
ELSEWHERE = '<http://127.0.0.2:1/v2/app/tags/list>; rel="next"'


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (lambda _: Answer(b"{}", 404), "image-not-found", "no such repository"),
        (listing({"tags": None}), "image-not-found", "no tag"),
        (listing({"tags": []}), "image-not-found", "no tag"),
        (listing({"tags": "a"}), "manifest-invalid", "its list of tags is none"),
        (listing({"tags": [1]}), "manifest-invalid", "its list of tags is none"),
        (listing([]), "manifest-invalid", "its list of tags is none"),
        (lambda _: Answer(b"[" * 100_000), "manifest-invalid", "its list of tags is none"),
        (listing({"tags": ["../x"]}), "manifest-invalid", "which is no tag"),
        (listing({"tags": ["a@sha256:" + "0" * 64]}), "manifest-invalid", "which is no tag"),
        (listing({"tags": ["\x1b[2J"]}), "manifest-invalid", "which is no tag"),
        (listing({"tags": ["a"]}, Link=SAME), "manifest-invalid", "the same tags again and again"),
        (listing({"tags": ["a"]}, Link=ELSEWHERE), "registry-unreachable", "for more tags"),
        (endless, "manifest-invalid", "more than 20000 tags"),
        (lambda _: Answer(endless=True), "manifest-invalid", "more than 4194304 bytes"),
        (lambda _: Answer(b"{}", headers={"Content-Encoding": "gzip"}), "manifest-invalid", "Content-Enc"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_list_of_tags_is_refused(
    box: Box, fake: Fake, answer: Callable[[Request], Answer], code: str, said: str
) -> None:
    fake.answer = answer
    with pytest.raises(Fault) as caught:
        box.store.registries.tags(fake.ref)
    assert (caught.value.code, said in str(caught.value)) == (code, True), str(caught.value)
    assert str(caught.value).isprintable()


def test_a_tag_that_cannot_be_had_stops_none_of_the_others(
    box: Box, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(fake, "2", "gone")
    del fake.files["manifests/gone"]
    assert pulled(box, "-a", f"{fake.address}/app") == 1
    assert names(box) == ["1", "2"]
    assert "app:gone: " in capsys.readouterr().err


def test_a_registry_that_fails_for_one_tag_is_not_asked_for_all_others(box: Box, fake: Fake) -> None:
    offer(fake, "2", "3")
    fake.answer = lambda request: fake.plain(request) if "tags/list" in request.path else Answer(b"{}", 401)
    assert pulled(box, "-a", f"{fake.address}/app") == 1
    assert not any("manifests/2" in request.path for request in fake.requests)


@pytest.mark.parametrize("name", ["app:1", "app@sha256:" + "0" * 64])
def test_all_tags_of_a_tag_is_wrong_use(
    box: Box, fake: Fake, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pulled(box, "-a", f"{fake.address}/{name}") == 2
    assert "write it without a tag" in capsys.readouterr().err
    assert fake.requests == []
