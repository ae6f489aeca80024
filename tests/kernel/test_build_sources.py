"""Where a build takes files from and where its result goes: contexts, URLs, repositories, archives."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runtime.build.failure import StepFailed
from runtime.build.request import Output
from runtime.faults import Fault
from tests.kernel.build_box import BuildBox, build_box, ref
from tests.kernel.git_box import served
from tests.kernel.images_box import Layout, LocalRegistry, file, layer
from tests.kernel.shim_box import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[BuildBox]:
    with build_box(tmp_path) as made:
        yield made


# ---------------------------------------------------------------- URLs


@dataclass
class Site:
    """A web server: content by path, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    address: str = ""
    broken: int = 0  # so many answers break off
    marks: bool = True  # says when a file was changed


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = made.files.get(self.path)
            if content is None:
                self._answer(404, b"")
                return
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            if self.headers.get("If-None-Match") == tag:
                self._answer(304, b"")
                return
            marks = {"ETag": tag, "Last-Modified": "Sun, 09 Sep 2001 01:46:40 GMT"}
            self._answer(200, content, **(marks if made.marks else {}))

        def _answer(self, status: int, content: bytes, **headers: str) -> None:
            made.asked.append((self.path, status))
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if made.broken and content:
                made.broken -= 1
                self.wfile.write(content[:1])
                self.close_connection = True
                return
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


def descriptors() -> list[str]:
    """Of this process, once the servers in it have let go their connections; some of other tests wait for the
    collection of who asked."""

    def quiet() -> bool:
        gc.collect()
        return not any("process_request" in thread.name for thread in threading.enumerate())

    until(quiet, 30)
    return sorted(os.listdir("/proc/self/fd"))


def test_a_file_of_a_url_has_its_name_its_time_and_mode_0600(box: BuildBox, site: Site) -> None:
    site.files["/dir/file.txt"] = b"content"
    built = box.build(f"ADD {site.address}/dir/file.txt /into/\nADD {site.address}/dir/file.txt /as")
    with box.view(built.result.image_id) as root:
        for path in (root / "into/file.txt", root / "as"):
            assert path.read_bytes() == b"content"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert path.stat().st_mtime == 1_000_000_000


def test_a_file_that_has_not_changed_is_not_fetched_again(box: BuildBox, site: Site) -> None:
    site.files["/f"] = b"1"
    text = f"ADD {site.address}/f /f"
    assert box.build(text).cached == [False]
    assert box.build(text).cached == [True]
    site.files["/f"] = b"2"
    assert box.build(text).cached == [False]
    assert [status for _, status in site.asked] == [200, 304, 200]


def test_a_file_with_a_known_checksum_is_not_even_asked_for(box: BuildBox, site: Site) -> None:
    site.files["/f"] = b"1"
    text = f"ADD --checksum=sha256:{hashlib.sha256(b'1').hexdigest()} {site.address}/f /f"
    box.build(text)
    assert box.build(text).cached == [True]
    assert len(site.asked) == 1


def test_a_file_without_marks_is_fetched_each_time_and_let_go_again(box: BuildBox, site: Site) -> None:
    site.files["/f"], site.marks = b"1", False
    text = f"ADD {site.address}/f /f"
    box.build(text)
    before = descriptors()
    assert [box.build(text).cached for _ in range(3)] == [[True]] * 3
    assert [status for _, status in site.asked] == [200] * 4
    assert descriptors() == before


def test_another_checksum_is_refused(box: BuildBox, site: Site) -> None:
    site.files["/f"] = b"1"
    with pytest.raises(StepFailed, match="its content is sha256:6b86b273"):
        box.build(f"ADD --checksum=sha256:{'0' * 64} {site.address}/f /f")


def test_a_url_that_is_not_there_says_what_the_server_said(box: BuildBox, site: Site) -> None:
    with pytest.raises(StepFailed, match="the server answered 404"):
        box.build(f"ADD {site.address}/none /f")


def test_a_url_is_unpacked_only_when_asked(box: BuildBox, site: Site) -> None:
    site.files["/t.tar.gz"] = archive({"in/side": "x"}, "w:gz")
    plain = box.build(f"ADD {site.address}/t.tar.gz /d/")
    unpacked = box.build(f"ADD --unpack=true {site.address}/t.tar.gz /d/")
    assert box.top(plain.result.image_id) == ["d", "d/t.tar.gz"]
    assert box.top(unpacked.result.image_id) == ["d", "d/in", "d/in/side"]


def archive(files: dict[str, str], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return out.getvalue()


def test_an_archive_that_reaches_out_is_refused(box: BuildBox) -> None:
    box.write({"evil.tar": archive({"../../evil": "x"})})
    with pytest.raises(StepFailed, match="evil"):
        box.build("ADD evil.tar /d/")
    assert not (box.base / "evil").exists()


# ---------------------------------------------------------------- git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place = tmp_path / "repository.git"
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "Dockerfile").write_text("FROM scratch\nCOPY f /f\n")
    (tree / "sub" / "f").write_text("one")
    (tree / "g").write_text("g")
    for words in (
        ("init", "--quiet", "--initial-branch=main", "."),
        ("add", "."),
        ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "one"),
        ("clone", "--quiet", "--bare", ".", str(place)),
    ):
        subprocess.run(("git", *words), cwd=tree, check=True)
    return place


@needs_git
def test_a_repository_is_a_context_with_its_fragment(box: BuildBox, repository: Path) -> None:
    built = box.build("FROM scratch\nCOPY f /f\n", context=f"file://{repository}#main:sub")
    assert box.read(built.result.image_id, "f") == "one"


@needs_git
def test_the_dockerfile_comes_from_the_repository(box: BuildBox, repository: Path) -> None:
    built = box.build("", context=f"file://{repository}#main:sub", dockerfile_text=None)
    assert box.top(built.result.image_id) == ["f"]


@needs_git
def test_add_of_a_repository_is_its_files_and_its_history_when_asked(box: BuildBox, repository: Path) -> None:
    with served(repository.parent) as url:
        plain = box.build(f"ADD {url}/{repository.name}#main /d")
        assert box.top(plain.result.image_id) == ["d", "d/g", "d/sub", "d/sub/Dockerfile", "d/sub/f"]
        kept = box.build(f"ADD --keep-git-dir=true {url}/{repository.name}#main /d")
        assert "d/.git/HEAD" in box.top(kept.result.image_id)
        assert box.build(f"ADD {url}/{repository.name}#main /d").cached == [True]


@needs_git
def test_a_repository_that_is_not_there_says_so(box: BuildBox, tmp_path: Path) -> None:
    with served(tmp_path) as url, pytest.raises(StepFailed, match="git fetch"):
        box.build(f"ADD {url}/none.git /d")


# ---------------------------------------------------------------- contexts


def test_named_contexts_are_directories_and_images(box: BuildBox, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "f").write_text("of more")
    contexts = {"more": str(tmp_path / "more"), "base": "docker-image://tests/busybox:1"}
    built = box.build(
        "FROM base\nCOPY --from=more f /f\nCOPY --from=base /etc/passwd /p\n", contexts=contexts
    )
    assert box.read(built.result.image_id, "f") == "of more"
    assert box.read(built.result.image_id, "p").startswith("root:")


def test_a_link_of_the_context_leads_nowhere_out_of_it(box: BuildBox) -> None:
    os.symlink("/etc/passwd", box.context / "link")
    os.symlink("..", box.context / "up")
    with pytest.raises(StepFailed, match="/link is not in the build context"):
        box.build("COPY link /l")
    with pytest.raises(StepFailed, match="not in the build context"):
        box.build("COPY up/image/etc/passwd /l")


def test_a_context_that_is_not_there_says_so(box: BuildBox) -> None:
    with pytest.raises(Fault, match="the build context /no/where: no such file"):
        box.build("COPY a /a", context="/no/where")


def test_a_file_that_changes_while_it_is_copied_is_not_remembered(
    box: BuildBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.write({"a": "before"})
    changed = threading.Event()

    def change(event: object) -> None:
        if (
            not changed.is_set()
            and getattr(event, "kind", "") == "start"
            and "COPY" in getattr(event, "text", "")
        ):
            changed.set()
            box.write({"a": "after!"})

    box.runtime.builder.build(box.request("COPY a /a"), change)
    assert changed.is_set()
    box.write({"a": "before"})
    built = box.build("COPY a /a")
    assert built.cached == [False]
    assert box.read(built.result.image_id, "a") == "before"


def test_archives_dockerfiles_and_directories_are_contexts_of_the_command(
    box: BuildBox, tmp_path: Path
) -> None:
    program = [sys.executable, "-c", "from agent.cli.main import main; raise SystemExit(main())"]
    program += ["--root", str(box.paths.root), "--run", str(box.paths.run), "build", "-q"]
    tar = tmp_path / "context.tar"
    tar.write_bytes(archive({"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "of the archive"}, "w:gz"))
    dockerfile = tmp_path / "alone"
    dockerfile.write_text("FROM tests/busybox:1\nLABEL alone=yes\n")
    box.write({"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "f", "other/D": "FROM scratch\nADD f /g\n"})
    ids = {}
    for name, words, given in (
        ("tar", ["-"], tar),
        ("text", ["-"], dockerfile),
        ("directory", [str(box.context)], None),
        ("file", ["-f", str(box.context / "other/D"), str(box.context)], None),
        ("stdin", ["-f", "-", str(box.context)], dockerfile),
    ):
        with (given or Path(os.devnull)).open("rb") as stdin:
            done = subprocess.run(
                [*program, "--iidfile", str(tmp_path / name), *words],
                stdin=stdin,
                capture_output=True,
                text=True,
            )
        assert done.returncode == 0, done.stderr
        ids[name] = (tmp_path / name).read_text()
        assert done.stdout.strip() == ids[name]
    assert box.read(ids["tar"], "f") == "of the archive"
    assert box.config(ids["text"])["config"]["Labels"] == {"alone": "yes"}
    assert box.read(ids["directory"], "f") == "f"
    assert box.read(ids["file"], "g") == "f"
    assert ids["stdin"] == ids["text"]


# ---------------------------------------------------------------- registries


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    if shutil.which("docker-registry") is None or shutil.which("skopeo") is None:
        pytest.skip("needs docker-registry and skopeo")
    running = LocalRegistry(tmp_path / "registry")
    yield running
    running.stop()


@pytest.mark.registry
def test_a_base_is_pulled_when_it_is_missing_and_looked_for_when_asked(
    box: BuildBox, registry: LocalRegistry, tmp_path: Path
) -> None:
    def push(content: bytes) -> None:
        layout = Layout(tmp_path / content.decode())
        layout.image([layer(file("f", content))], tag="base")
        registry.push(layout.path, "base", "base:1")

    text = f"FROM {registry.address}/base:1\nCOPY a /a\n"
    box.write({"a": "a"})
    push(b"one")
    assert box.read(box.build(text).result.image_id, "f") == "one"
    push(b"two")
    assert box.read(box.build(text).result.image_id, "f") == "one"
    built = box.build(text, pull=True)
    assert box.read(built.result.image_id, "f") == "two"
    assert built.cached == [False]


@pytest.mark.registry
def test_several_platforms_are_pushed_as_one_index(box: BuildBox, registry: LocalRegistry) -> None:
    box.write({"a": "a"})
    name = f"{registry.address}/app:1"
    platforms = ("linux/amd64", "linux/arm64")
    box.build(
        "FROM scratch\nCOPY a /a\n", platforms=platforms, outputs=(Output("registry"),), names=(ref(name),)
    )
    words = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"]
    found = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert [item["platform"]["architecture"] for item in found["manifests"]] == ["amd64", "arm64"]


def test_a_base_that_is_nowhere_says_so(box: BuildBox) -> None:
    with pytest.raises(Fault) as fault:
        box.build("FROM 127.0.0.1:1/none:1\n")
    assert fault.value.code == "registry-unreachable"


# ---------------------------------------------------------------- outputs


TWO = "FROM scratch\nCOPY a /a\nCOPY b /d/b\n"


@pytest.fixture
def two(box: BuildBox) -> BuildBox:
    box.write({"a": "a", "b": "b"})
    return box


def test_files_go_to_a_directory_over_what_is_there(two: BuildBox, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "mine").write_text("mine")
    (place / "a").write_text("old")
    two.build(TWO, outputs=(Output("local", str(place)),), names=(ref("n:1"),))
    assert sorted(os.listdir(place)) == ["a", "d", "mine"]
    assert (place / "a").read_text() == "a"
    assert two.runtime.images.get("n:1") is None  # an output of files alone leaves no image


def test_files_go_to_an_archive(two: BuildBox, tmp_path: Path) -> None:
    two.build(TWO, outputs=(Output("tar", str(tmp_path / "out.tar")),))
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert sorted(name for name in tar.getnames() if name not in ("", ".")) == ["a", "d", "d/b"]


@needs_skopeo
@pytest.mark.parametrize(("kind", "transport"), [("oci", "oci-archive"), ("docker", "docker-archive")])
def test_others_read_the_archives_of_images(two: BuildBox, tmp_path: Path, kind: str, transport: str) -> None:
    place = tmp_path / "out.tar"
    built = two.build(TWO, outputs=(Output(kind, str(place)),), names=(ref("n:1"),))
    done = subprocess.run(
        ["skopeo", "inspect", "--config", "--raw", f"{transport}:{place}"], capture_output=True, check=True
    )
    assert f"sha256:{hashlib.sha256(done.stdout).hexdigest()}" == built.result.image_id
    assert two.runtime.images.get(built.result.image_id) is None


@needs_skopeo
def test_several_platforms_are_one_index(two: BuildBox, tmp_path: Path) -> None:
    place = tmp_path / "out.tar"
    platforms = ("linux/amd64", "linux/arm64", "linux/arm/v7")
    built = two.build(TWO, platforms=platforms, outputs=(Output("oci", str(place)),), names=(ref("n:1"),))
    assert [platform for platform, _ in built.result.images] == list(platforms)
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci-archive:{place}:1"], capture_output=True, check=True
    )
    entries = json.loads(done.stdout)["manifests"]
    assert [entry["platform"]["architecture"] for entry in entries] == ["amd64", "arm64", "arm"]
    assert entries[2]["platform"]["variant"] == "v7"


def test_programs_of_another_machine_are_refused_before_they_run(two: BuildBox) -> None:
    text = 'FROM scratch\nCOPY a /a\nRUN ["/a"]\n'
    with pytest.raises(StepFailed, match="s390x"):
        two.build(text, platforms=("linux/s390x",))


def test_an_output_that_cannot_be_is_refused_before_anything_is_built(two: BuildBox) -> None:
    for output in (Output("zip", "x"), Output("local"), Output("registry")):
        with pytest.raises(Fault) as fault:
            two.build(TWO, outputs=(output,))
        assert fault.value.code == "request-invalid"
        assert two.events == []
