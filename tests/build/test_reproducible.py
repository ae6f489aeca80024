"""With SOURCE_DATE_EPOCH two machines build the same bytes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.build.engines import Engine, Stead, base_layout
from tests.build.workshop import Workshop

pytestmark = pytest.mark.root

EPOCH = 1_600_000_000
DOCKERFILE = """\
FROM base AS made
RUN mkdir /made && echo x > /made/a && ln /made/a /made/b && touch -d '2001-02-03 00:00:00' /made/old
FROM base
WORKDIR /srv/app
COPY . .
COPY --from=made /made /made
ADD a.tar /unpacked/
RUN rm /etc/motd && mkfifo /pipe && echo $SOURCE_DATE_EPOCH > /epoch && ln -s a /link
COPY <<EOF /inline
text
EOF
LABEL a=1
CMD ["a"]
"""
FILES = {
    "new": {"content": "n", "mtime": 1_700_000_000},
    "old": {"content": "o", "mtime": 1_500_000_000},
    "d/e": "e",
    "a.tar": {"archive": {"in": {"content": "i", "mtime": 1_700_000_000}}},
}


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Stead]:
    """A root of its own, made later."""
    made = Stead(tmp_path / "second")
    made.start(base_layout(tmp_path / "base"))
    yield made
    made.close()


def shop(engine: Engine, context: Path, names: list[str]) -> Workshop:
    """The same files, written in another order and at another time."""
    assert isinstance(engine, Stead)
    context.mkdir()
    made = Workshop(engine, context)
    made.write({"Dockerfile": DOCKERFILE})
    for name in names:
        made.write({name: FILES[name]})
    return made


def test_two_machines_build_the_same_bytes(
    engine_of: Callable[[str], Engine], second: Stead, tmp_path: Path
) -> None:
    one = shop(engine_of("stead"), tmp_path / "one", [*FILES])
    two = shop(second, tmp_path / "two", [*reversed(FILES)])
    option = ("--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", "-t", "repeated")
    one.build(*option, "-o", f"type=oci,dest={tmp_path}/one.tar", "-o", "type=image")
    two.build(*option, "-o", f"type=oci,dest={tmp_path}/two.tar", "-o", "type=image")
    assert one.id("repeated") == two.id("repeated")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    assert one.image("repeated").tree == two.image("repeated").tree


def test_no_time_is_later_than_the_epoch(engine_of: Callable[[str], Engine], tmp_path: Path) -> None:
    one = shop(engine_of("stead"), tmp_path / "one", [*FILES])
    one.build(
        "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", "-t", "dated", "-o", f"type=oci,dest={tmp_path}/o.tar"
    )
    with tarfile.open(tmp_path / "o.tar") as tar:

        def blob(digest: str) -> bytes:
            file = tar.extractfile(f"blobs/sha256/{digest.partition(':')[2]}")
            assert file is not None
            return file.read()

        index = tar.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
        config = json.loads(blob(manifest["config"]["digest"]))
        (tmp_path / "layers").mkdir()
        for number, item in enumerate(manifest["layers"]):
            (tmp_path / f"layers/{number}").write_bytes(blob(item["digest"]))
    told = datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert config["created"] == told
    assert {item["created"] for item in config["history"] if "created" in item} == {told}
    times: dict[str, float] = {}
    for number in range(1, len(manifest["layers"])):
        with tarfile.open(tmp_path / f"layers/{number}") as layer:
            times |= {member.name: member.mtime for member in layer}
    assert max(times.values()) == EPOCH
    assert times["srv/app/old"] == 1_500_000_000
    assert times["srv/app/new"] == times["unpacked/in"] == EPOCH


def test_an_epoch_that_is_none_is_refused(engine_of: Callable[[str], Engine], tmp_path: Path) -> None:
    one = shop(engine_of("stead"), tmp_path / "one", [*FILES])
    report = one.build("--build-arg", "SOURCE_DATE_EPOCH=yesterday", "-t", "never", code=2)
    assert "SOURCE_DATE_EPOCH" in report.output
