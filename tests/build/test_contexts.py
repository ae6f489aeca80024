"""Where contexts and Dockerfiles come from, where results go, and what is said meanwhile."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.linux.trees import remove
from tests.build import trees
from tests.build.cases import archive
from tests.build.engines import Built, Engine, Stead
from tests.build.workshop import Workshop
from tests.deep import dig

pytestmark = pytest.mark.root

CONTEXT = {"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "from the archive"}


@pytest.fixture
def shop(engine_of: Callable[[str], Engine], tmp_path: Path) -> Workshop:
    engine = engine_of("stead")
    assert isinstance(engine, Stead)
    made = Workshop(engine, tmp_path / "context")
    made.context.mkdir()
    return made


def fed(shop: Workshop, data: bytes, *words: str) -> Built:
    """The command with something on its standard input."""
    program = "from agent.cli.main import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *shop.engine.roots, "build", "--progress", "plain", *words],
        input=data,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    return Built(done.returncode, done.stdout.decode())


def files(shop: Workshop, name: str) -> dict[str, str]:
    return {path: entry.detail for path, entry in shop.image(name).tree.items() if entry.kind == "-"}


# ---------------------------------------------------------------- what is built


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_context_may_come_as_an_archive(shop: Workshop, pack: Callable[[bytes], bytes]) -> None:
    done = fed(shop, pack(archive(CONTEXT)), "-t", "fed", "-")
    assert done.code == 0, done.output
    assert files(shop, "fed") == {"a": "from the archive"}


def test_an_archive_has_its_own_ignore_file(shop: Workshop) -> None:
    more = {"Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": "*\n!b\n", "b": "b"}
    done = fed(shop, archive({**CONTEXT, **more}), "-t", "fed", "-")
    assert done.code == 0, done.output
    assert files(shop, "fed") == {"b": "b"}


def test_another_dockerfile_of_an_archive(shop: Workshop) -> None:
    done = fed(shop, archive({**CONTEXT, "d/x": "FROM scratch\nCOPY a /x\n"}), "-t", "fed", "-f", "d/x", "-")
    assert done.code == 0, done.output
    assert files(shop, "fed") == {"x": "from the archive"}


def test_an_archive_that_leads_out_of_itself_is_refused(shop: Workshop, tmp_path: Path) -> None:
    done = fed(shop, archive({**CONTEXT, "../../escaped": "x"}), "-t", "never", "-")
    assert done.code == 1 and "escaped" in done.output and "Traceback" not in done.output
    assert not list(tmp_path.rglob("escaped"))


def test_an_archive_that_is_cut_is_refused(shop: Workshop) -> None:
    done = fed(shop, archive({**CONTEXT, "big": "x" * 100_000})[:50_000], "-t", "never", "-")
    assert done.code == 1 and "Traceback" not in done.output, done.output


def test_a_dockerfile_alone_needs_no_context(shop: Workshop) -> None:
    done = fed(shop, b"FROM scratch\nLABEL a=1\n", "-t", "fed", "-")
    assert done.code == 0, done.output
    assert shop.image("fed").config["Labels"] == {"a": "1"}
    done = fed(shop, b"FROM scratch\nCOPY a /\n", "-t", "fed", "-")
    assert done.code == 1 and "a" in done.output


def test_a_dockerfile_of_standard_input_with_a_directory(shop: Workshop) -> None:
    shop.write({"a": "of the directory"})
    done = fed(shop, b"FROM scratch\nCOPY a /\n", "-t", "fed", "-f", "-", str(shop.context))
    assert done.code == 0, done.output
    assert files(shop, "fed") == {"a": "of the directory"}


def test_nothing_on_standard_input_is_said(shop: Workshop) -> None:
    done = fed(shop, b"", "-t", "never", "-")
    assert done.code == 1 and "Traceback" not in done.output, done.output


def test_a_named_context_is_copied_from_and_mounted(shop: Workshop, tmp_path: Path) -> None:
    other = Workshop(shop.engine, tmp_path / "other")
    other.context.mkdir()
    other.write({"x": "other", ".dockerignore": "hidden"})
    text = "FROM base\nCOPY --from=lib x /\nRUN --mount=from=lib,target=/mnt cat /mnt/x > /y\n"
    shop.write({"Dockerfile": text})
    option = ("--build-context", f"lib={other.context}", "-t", "named")
    shop.build(*option)
    tree = shop.image("named").tree
    assert (tree["x"].detail, tree["y"].detail) == ("other", "other")
    assert shop.build(*option).anew == ()
    other.write({"x": "changed"})
    assert len(shop.build(*option).anew) == 2
    assert shop.image("named").tree["y"].detail == "changed"


def test_a_named_context_takes_the_place_of_an_image_and_of_a_stage(shop: Workshop) -> None:
    shop.write(
        {
            "Dockerfile": "FROM nowhere.test/image AS one\nCOPY a /\nFROM scratch\nCOPY --from=one / /\n",
            "a": "a",
        }
    )
    shop.build("--build-context", "nowhere.test/image=docker-image://base", "-t", "named")
    assert "bin/busybox" in shop.image("named").tree


def test_a_context_that_is_not_there_is_said(shop: Workshop) -> None:
    done = shop.engine.stead("build", "-t", "never", str(shop.context / "none"))
    assert done.code == 1 and "none" in done.output and "Traceback" not in done.output


def test_what_is_too_deep_for_a_layer_is_said_with_its_place_unless_it_is_left_out(shop: Workshop) -> None:
    (shop.context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (shop.context / "a").write_text("a")
    dig(shop.context, 3000, "d")
    try:
        done = shop.engine.stead("build", "-t", "deep", str(shop.context))
        assert done.code == 1
        assert "Dockerfile:2:1: COPY . /: more than 256 directories in each other" in done.output
        assert "Traceback" not in done.output
        (shop.context / ".dockerignore").write_text("d\nDockerfile\n.dockerignore\n")
        done = shop.engine.stead("build", "-t", "deep", str(shop.context))
        assert done.code == 0, done.output
        assert files(shop, "deep") == {"a": "a"}
    finally:
        remove(shop.context)


def test_a_link_to_a_context_is_that_context(shop: Workshop, tmp_path: Path) -> None:
    shop.write(CONTEXT)
    (tmp_path / "link").symlink_to(shop.context)
    done = shop.engine.stead("build", "-t", "linked", str(tmp_path / "link"))
    assert done.code == 0, done.output
    assert files(shop, "linked") == {"a": "from the archive"}


def test_an_environment_gives_the_value_of_an_argument_without_one(shop: Workshop) -> None:
    shop.write({"Dockerfile": "FROM scratch\nARG HOME_OF\nLABEL v=$HOME_OF\n"})
    os.environ["HOME_OF"] = "from outside"
    try:
        done = fed(shop, b"", "--build-arg", "HOME_OF", "-t", "outside", str(shop.context))
    finally:
        del os.environ["HOME_OF"]
    assert done.code == 0, done.output
    assert shop.image("outside").config["Labels"] == {"v": "from outside"}


def test_the_epoch_of_the_environment_is_that_of_an_argument(shop: Workshop) -> None:
    token = os.urandom(8).hex()
    shop.write(
        {
            "Dockerfile": "FROM base\nCOPY a /\nARG SOURCE_DATE_EPOCH\nLABEL at=$SOURCE_DATE_EPOCH\n",
            "a": token,
        }
    )
    shop.build("--build-arg", "SOURCE_DATE_EPOCH=1600000000", "-t", "dated")
    os.environ["SOURCE_DATE_EPOCH"] = "1600000000"
    try:
        done = fed(shop, b"", "--no-cache", "-t", "outside", str(shop.context))
    finally:
        del os.environ["SOURCE_DATE_EPOCH"]
    assert done.code == 0, done.output
    assert shop.image("outside").config["Labels"] == {"at": "1600000000"}
    assert shop.id("outside") == shop.id("dated")


def test_a_secret_of_the_environment(shop: Workshop) -> None:
    shop.write({"Dockerfile": "FROM base\nRUN --mount=type=secret,id=t cat /run/secrets/t > /out\n"})
    os.environ["TOKEN_OF"] = "hush"
    try:
        done = fed(
            shop, b"", "--secret", "id=t,env=TOKEN_OF", "--network=none", "-t", "outside", str(shop.context)
        )
    finally:
        del os.environ["TOKEN_OF"]
    assert done.code == 0 and "hush" not in done.output, done.output
    assert shop.image("outside").tree["out"].detail == "hush"


def test_secrets_are_nowhere_in_the_store(shop: Workshop, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush-" + os.urandom(8).hex())
    run = 'test -n "$T" && echo $T | wc -c > /out'
    shop.write({"Dockerfile": f"FROM base\nRUN --mount=type=secret,id=t,env=T {run}\n"})
    shop.build("--secret", f"id=t,src={secret}", "-t", "secretive")
    assert shop.image("secretive").tree["out"].detail == "22\n"
    needle = secret.read_bytes()
    root = shop.engine.directory
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 24:
            assert needle not in path.read_bytes(), path


# ---------------------------------------------------------------- where it goes


def test_several_names_for_one_image(shop: Workshop) -> None:
    shop.write(CONTEXT)
    shop.build("-t", "several:1", "-t", "several:2", "-t", "registry.test/several")
    assert shop.id("several:1") == shop.id("several:2") == shop.id("registry.test/several")


def test_a_build_without_a_name_is_an_image_all_the_same(shop: Workshop, tmp_path: Path) -> None:
    shop.write({**CONTEXT, "a": os.urandom(8).hex()})
    shop.build("--iidfile", str(tmp_path / "id"))
    assert files(shop, (tmp_path / "id").read_text()) == {"a": (shop.context / "a").read_text()}


def test_quiet_says_the_id_alone(shop: Workshop) -> None:
    shop.write(CONTEXT)
    done = shop.engine.stead("build", "-q", "-t", "quiet", str(shop.context))
    assert (done.code, done.output) == (0, shop.id("quiet") + "\n")


def test_a_directory_as_the_result(shop: Workshop, tmp_path: Path) -> None:
    """--output DIR is type=local,dest=DIR: files as in the image, and nothing recorded."""
    shop.write(
        {
            "Dockerfile": "FROM scratch\nCOPY --chown=5:6 --chmod=640 d /to/\n",
            "d/a": "a",
            "d/l": {"link": "/etc"},
        }
    )
    shop.build("-o", str(tmp_path / "out"))
    found = trees.read(tmp_path / "out")
    assert found["to/a"].line("to/a").startswith("to/a [640 5:6 ")
    assert found["to/l"].detail == "/etc"


def test_a_tar_as_the_result(shop: Workshop, tmp_path: Path) -> None:
    shop.write(CONTEXT)
    shop.build("-o", f"type=tar,dest={tmp_path}/out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert [member.name for member in tar if member.isfile()] == ["a"]


def test_a_tar_on_standard_output(shop: Workshop) -> None:
    shop.write(CONTEXT)
    program = "from agent.cli.main import main; raise SystemExit(main())"
    words = [*shop.engine.roots, "build", "-o", "-", str(shop.context)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert [member.name for member in tar if member.isfile()] == ["a"]


def test_a_failed_build_leaves_the_old_result(shop: Workshop, tmp_path: Path) -> None:
    shop.write(CONTEXT)
    target = tmp_path / "out.tar"
    target.write_text("before")
    shop.write({"Dockerfile": "FROM base\nRUN false\n"})
    shop.build("-t", "failed", "-o", f"type=tar,dest={target}", code=1)
    assert target.read_text() == "before"
    assert shop.engine.stead("image", "inspect", "failed").code == 1


def test_the_metadata_of_a_build(shop: Workshop, tmp_path: Path) -> None:
    shop.write(CONTEXT)
    shop.build("-t", "described", "--metadata-file", str(tmp_path / "meta.json"))
    found = json.loads((tmp_path / "meta.json").read_text())
    assert found["containerimage.config.digest"] == shop.id("described")
    assert found["image.name"] == "docker.io/library/described:latest"


def test_rawjson_is_json_by_lines(shop: Workshop) -> None:
    shop.write({**CONTEXT, "a": os.urandom(8).hex()})
    done = shop.engine.stead("build", "--progress", "rawjson", "-t", "raw", str(shop.context))
    assert done.code == 0, done.output
    events = [json.loads(line) for line in done.output.splitlines()]
    assert any("COPY a /" in json.dumps(event) for event in events)


# ---------------------------------------------------------------- what a RUN says, and its end


def test_the_output_of_a_step_has_its_number(shop: Workshop) -> None:
    shop.write({"Dockerfile": f"FROM base\nRUN echo {os.urandom(4).hex()} && echo out && echo err >&2\n"})
    report = shop.build("-t", "said")
    lines = [line.split(" ", 2) for line in report.output.splitlines() if line.endswith((" out", " err"))]
    assert len(lines) == 2 and len({line[0] for line in lines}) == 1
    assert all(float(line[1]) >= 0 for line in lines)


def test_a_failing_step_shows_itself_its_code_and_its_last_lines(shop: Workshop) -> None:
    shop.write({"Dockerfile": "FROM base\nRUN for i in 1 2 3; do echo line $i; done; exit 42\n"})
    output = shop.build("-t", "failed", code=1).output
    end = output[output.index("------") :]
    assert "line 3" in end and "exit code: 42" in end and "Dockerfile:2:1" in end


def test_much_output_of_a_step_comes_through(shop: Workshop) -> None:
    shop.write(
        {"Dockerfile": "FROM base\nRUN i=0; while [ $i -lt 5000 ]; do echo line-$i; i=$((i+1)); done\n"}
    )
    output = shop.build("-t", "much", "--no-cache").output
    assert output.count("line-") >= 5000 and "line-4999" in output
