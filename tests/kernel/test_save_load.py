"""Images leave the store as files and come back from files, ours and other people's, right and wrong."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.faults import Fault
from runtime.images import members, sinks
from runtime.images.save import FORMATS
from runtime.linux import mounts
from tests.kernel.images_box import BASE, Box, Layout, digest, directory, file, layer, ref, store, tree

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices, overlay mounts"),
]

TOP = layer(directory("etc"), file("etc/top", "top"), file("etc/.wh.shadow"))
STEAD = "import sys; from agent.cli.main import main; sys.exit(main())"
OTHER = layer(file("other", "other"))


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Box]:
    with store(tmp_path / "second") as made:
        yield made


def fill(box: Box, tmp_path: Path) -> tuple[str, str]:
    """Two images that share a layer: my/app:1 (also my/app:2, other:1) and my/tool:1."""
    layout = Layout(tmp_path / "layout")
    layout.image([BASE, TOP], tag="my/app:1", config={"Cmd": ["app"]})
    layout.image([BASE, OTHER], tag="my/tool:1")
    app, tool = load(box, layout.path)
    box.store.tag(app, ref("my/app:2"))
    box.store.tag(app, ref("other:1"))
    return app, tool


def save(box: Box, path: Path, *names: str, form: str = "docker-archive") -> Path:
    if form.endswith("-dir"):
        with sinks.written_folder(path) as folder:
            box.store.save(names, form, sinks.FolderSink(folder))
    else:
        with sinks.written(path) as out:
            sink = sinks.TarSink(out, box.paths.root)
            box.store.save(names, form, sink)
            sink.close()
    return path


def load(box: Box, path: Path) -> dict[str, list[str]]:
    return {item.id: [name.familiar for name in item.names] for item in box.store.load(path)}


def stead(box: Box, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", STEAD, "--root", str(box.paths.root)]
    command += ["--run", str(box.paths.run), *words]
    return subprocess.run(command, capture_output=True, timeout=60, **more)


def contents(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


# ---------------------------------------------------------------- out, and in again


def test_one_image_fits_into_a_docker_directory(box: Box, second: Box, tmp_path: Path) -> None:
    app, _ = fill(box, tmp_path)
    assert load(second, save(box, tmp_path / "saved", "my/app:1", form="docker-dir")) == {app: []}
    with pytest.raises(Fault, match="2 images do not fit into the format docker-dir"):
        save(box, tmp_path / "both", "my/app:1", "my/tool:1", form="docker-dir")
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "docker-dir"])
def test_what_was_saved_is_the_same_image_elsewhere(box: Box, second: Box, tmp_path: Path, form: str) -> None:
    app, tool = fill(box, tmp_path)
    path = save(box, tmp_path / "saved", "my/app", "my/tool:1", form=form)
    assert load(second, path) == {app: ["my/app:1", "my/app:2"], tool: ["my/tool:1"]}
    assert [image.id for image in second.store.list()] == sorted([app, tool])
    with box.mounted(app) as ours, second.mounted(app) as theirs:
        before, after = tree(ours), tree(theirs)
    del before["."], after["."]
    assert before == after


def test_shared_layers_are_in_an_archive_once(box: Box, tmp_path: Path) -> None:
    fill(box, tmp_path)
    names = contents(save(box, tmp_path / "a.tar", "my/app:1", "my/app:2", "my/tool:1"))
    assert len(names) == len(set(names))
    blobs = [name for name in names if name.startswith("blobs/sha256/")]
    assert len(blobs) == 3 + 2 + 2  # layers, configs, manifests
    for item in (BASE, TOP, OTHER):
        assert f"blobs/sha256/{digest(item)[7:]}" in blobs


def test_an_image_that_is_saved_by_id_has_no_name(box: Box, second: Box, tmp_path: Path) -> None:
    app, _ = fill(box, tmp_path)
    path = save(box, tmp_path / "a.tar", app[7:19])
    with tarfile.open(path) as archive:
        assert json.load(archive.extractfile("manifest.json"))[0]["RepoTags"] is None
    assert load(second, path) == {app: []}


def test_a_repository_without_a_tag_means_all_its_tags(box: Box, tmp_path: Path) -> None:
    fill(box, tmp_path)
    with tarfile.open(save(box, tmp_path / "a.tar", "my/app")) as archive:
        (item,) = json.load(archive.extractfile("manifest.json"))
    assert item["RepoTags"] == ["my/app:1", "my/app:2"]


def test_the_same_images_are_the_same_bytes_on_a_file_and_on_a_pipe(box: Box, tmp_path: Path) -> None:
    fill(box, tmp_path)
    file = save(box, tmp_path / "a.tar", "my/app:1").read_bytes()
    piped = stead(box, "image", "save", "my/app:1")
    assert piped.returncode == 0 and piped.stderr == b""
    assert piped.stdout == file


def test_what_is_appended_to_is_not_written_in_the_middle(box: Box, tmp_path: Path) -> None:
    fill(box, tmp_path)
    wanted = save(box, tmp_path / "a.tar", "my/app:1").read_bytes()
    with (tmp_path / "b.tar").open("ab") as out:
        out.write(b"before")
        out.flush()
        command = [sys.executable, "-c", STEAD, "--root", str(box.paths.root)]
        command += ["--run", str(box.paths.run), "image", "save", "my/app:1"]
        subprocess.run(command, stdout=out, check=True)
    assert (tmp_path / "b.tar").read_bytes() == b"before" + wanted


def test_a_layer_that_rotted_leaves_no_file_under_the_final_name(box: Box, tmp_path: Path) -> None:
    app, _ = fill(box, tmp_path)
    blob = box.store.catalog.layer(box.store.get(app).chain_ids[0])["blob"]
    box.store.blobs.path(blob).write_bytes(gzip.compress(BASE + b"more"))
    (tmp_path / "out").mkdir()
    for form in ("docker-archive", "oci-archive", "oci-dir"):
        done = stead(box, "image", "save", "--format", form, "-o", str(tmp_path / "out/x"), "my/app:1")
        assert (done.returncode == 1 and b"not sha256:" in done.stderr) or b"bytes" in done.stderr
        assert os.listdir(tmp_path / "out") == []


def test_a_save_that_is_killed_leaves_no_file_under_the_final_name(box: Box, tmp_path: Path) -> None:
    fill(box, tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x.tar").write_text("what was here before")
    code = (
        "import os, signal, sys\n"
        "from runtime.images import sinks\n"
        "from pathlib import Path\n"
        "with sinks.written(Path(sys.argv[1])) as file:\n"
        "    file.write(bytes(3_000_000))\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out/x.tar")])
    assert done.returncode == -9
    assert (tmp_path / "out/x.tar").read_text() == "what was here before"


def test_a_full_directory_is_not_saved_into(box: Box, tmp_path: Path) -> None:
    fill(box, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("precious")
    done = stead(box, "image", "save", "--format", "oci", "-o", str(tmp_path / "full"), "my/app:1")
    assert (done.returncode, done.stderr) == (
        1,
        f"stead: cannot save to {tmp_path}/full: it exists and is not empty\n".encode(),
    )
    assert os.listdir(tmp_path / "full") == ["precious"]


def test_a_full_disk_is_said_and_left_as_it_was(box: Box, tmp_path: Path) -> None:
    fill(box, tmp_path)
    (tmp_path / "small").mkdir()
    mounts.mount("tmpfs", tmp_path / "small", "tmpfs", data="size=100k")
    try:
        for form in ("docker-archive", "oci-dir"):
            words = ["--format", form, "-o", str(tmp_path / "small/x"), "my/app:1", "my/tool:1"]
            if form == "oci-dir":
                (tmp_path / "small/filler").write_bytes(bytes(90_000))
            done = stead(box, "image", "save", *words)
            assert done.returncode == 1
            assert done.stderr.startswith(b"stead: cannot save image my/app:1, my/tool:1: no space left")
            assert not (tmp_path / "small/x").exists()
        assert os.listdir(tmp_path / "small") == ["filler"]
    finally:
        mounts.unmount(tmp_path / "small")


def test_an_unknown_name_saves_nothing(box: Box, tmp_path: Path) -> None:
    fill(box, tmp_path)
    done = stead(box, "image", "save", "-o", str(tmp_path / "x.tar"), "my/app:1", "nothing:1")
    assert done.returncode == 1
    assert done.stderr == b"stead: cannot save image nothing:1: it is not in the store\n"
    assert not (tmp_path / "x.tar").exists()


# ---------------------------------------------------------------- names


def test_a_tag_is_another_name_and_leaves_the_image_that_had_it(box: Box, tmp_path: Path) -> None:
    app, tool = fill(box, tmp_path)
    assert stead(box, "image", "tag", "my/tool:1", "registry.example:5000/tool").returncode == 0
    assert stead(box, "image", "tag", app[7:15], "my/tool:1").returncode == 0
    assert box.store.get("registry.example:5000/tool:latest").id == tool
    assert box.store.get("my/tool:1").id == app


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nothing:1", "x:1"], "cannot tag image nothing:1: "),
        (["my/app:1", f"x@{digest(b'')}"], "a name with a digest cannot be given"),
        (["my/app:1", "x/UPPER"], "cannot read image reference"),
    ],
)
def test_a_wrong_tag_says_what_is_wrong(box: Box, tmp_path: Path, words: list[str], text: str) -> None:
    fill(box, tmp_path)
    before = box.store.list()
    done = stead(box, "image", "tag", *words)
    assert done.returncode in (1, 2) and text in done.stderr.decode()
    assert box.store.list() == before


# ---------------------------------------------------------------- in, from others


def test_load_says_what_it_loaded(box: Box, second: Box, tmp_path: Path) -> None:
    _, tool = fill(box, tmp_path)
    path = save(box, tmp_path / "a.tar", "my/app", tool)
    done = stead(second, "image", "load", "-i", str(path))
    assert done.stdout.decode().splitlines() == [
        "Loaded image: my/app:1",
        "Loaded image: my/app:2",
        f"Loaded image ID: {tool}",
    ]
    assert stead(second, "image", "load", "-q", "-i", str(path)).stdout == b""


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_comes_through_a_pipe_however_it_is_compressed(
    box: Box, second: Box, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    fill(box, tmp_path)
    data = compress(save(box, tmp_path / "a.tar", "my/tool:1").read_bytes())
    done = stead(second, "image", "load", input=data)
    assert (done.stdout, done.stderr) == (b"Loaded image: my/tool:1\n", b"")


def docker_archive(path: Path, images: Sequence[Mapping[str, Any]], *extra: Any) -> Path:
    """As `docker save` wrote it before 25: a directory a layer, of which the second image's is a link."""
    with tarfile.open(path, "w") as archive:

        def add(name: str, data: bytes = b"", **fields: Any) -> None:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        known: dict[bytes, str] = {}
        items = []
        for number, image in enumerate(images):
            names = []
            for position, data in enumerate(image["layers"]):
                folder = hashlib.sha256(b"%d %d" % (number, position)).hexdigest()
                add(folder, type=tarfile.DIRTYPE)
                add(f"{folder}/VERSION", b"1.0")
                names.append(f"{folder}/layer.tar")
                if data in known:
                    add(names[-1], type=tarfile.SYMTYPE, linkname=f"../{known[data]}")
                else:
                    add(names[-1], data)
                    known[data] = names[-1]
            ids = image.get("diff_ids", [digest(data) for data in image["layers"]])
            config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}}
            text = json.dumps(config).encode()
            add(f"{digest(text)[7:]}.json", text)
            item = {"Config": f"{digest(text)[7:]}.json", "RepoTags": image.get("tags"), "Layers": names}
            items.append({**item, **image.get("item", {})})
        for name, data, fields in extra:
            add(name, data, **fields)
        add("manifest.json", json.dumps(items).encode())
        add("repositories", b"{}")
    return path


def test_the_old_form_of_docker_save_is_read_with_its_links(box: Box, tmp_path: Path) -> None:
    images = [{"layers": [BASE, TOP], "tags": ["app:1", "my/app:1"]}, {"layers": [BASE, OTHER]}]
    path = docker_archive(tmp_path / "a.tar", images)
    names = sorted(load(box, path).values())
    assert names == [[], ["app:1", "my/app:1"]]
    assert len(box.store.layers.chain_ids()) == 3


def test_of_a_layout_for_several_platforms_this_machines_is_loaded(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    for architecture in ("s390x", "amd64", "arm64"):
        layout.image([BASE, layer(file(architecture))], tag="my/app:1", architecture=architecture)
        layout.entries[-1]["platform"] = {"os": "linux", "architecture": architecture}
    layout.add(layout.entries.pop())
    mine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    ((id, names),) = load(box, layout.path).items()
    assert names == ["my/app:1"] and box.store.get(id).config["architecture"] == mine
    ((id, _),) = ((item.id, item.names) for item in box.store.load(layout.path, platform="linux/s390x"))
    assert box.store.get(id).config["architecture"] == "s390x"


def test_a_word_alone_in_a_layout_is_no_name(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE], tag="latest")
    assert list(load(box, layout.path).values()) == [[]]


# ---------------------------------------------------------------- what is wrong with an archive


def refused(box: Box, path: Path) -> Fault:
    with pytest.raises(Fault) as caught:
        load(box, path)
    assert box.store.list() == [] and box.store.blobs.digests() == [] and box.leftovers() == []
    assert box.store.layers.chain_ids() == []
    return caught.value


@pytest.mark.parametrize(
    ("image", "code", "text"),
    [
        ({"layers": [BASE, TOP], "diff_ids": [digest(TOP), digest(BASE)]}, "digest-mismatch", "not"),
        ({"layers": [BASE], "diff_ids": [digest(b"")]}, "digest-mismatch", "not"),
        ({"layers": [BASE, TOP], "diff_ids": [digest(BASE)]}, "archive-invalid", "its config names 1"),
        ({"layers": [BASE], "tags": ["../../etc:1"]}, "archive-invalid", "'..' is not a host name"),
        ({"layers": [BASE], "tags": [f"a@{digest(BASE)}"]}, "archive-invalid", "no name with a tag"),
        ({"layers": [BASE], "item": {"Config": "/etc/passwd"}}, "archive-invalid", "has no /etc/passwd"),
        ({"layers": [BASE], "item": {"Config": "../x"}}, "archive-invalid", "has no ../x"),
        ({"layers": [BASE], "item": {"Layers": ["/etc/shadow"]}}, "archive-invalid", "has no /etc/shadow"),
        ({"layers": [layer(file("../out"))]}, "layer-invalid", "'../out'"),
        ({"layers": [b"no tar" * 100]}, "layer-invalid", "where a number belongs"),
    ],
)
def test_an_archive_that_lies_is_refused_and_leaves_nothing(
    box: Box, tmp_path: Path, image: Mapping[str, Any], code: str, text: str
) -> None:
    fault = refused(box, docker_archive(tmp_path / "a.tar", [image]))
    assert fault.code == code and text in str(fault)


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        ("/etc/shadow", tarfile.SYMTYPE),
        ("../../../../../../etc/shadow", tarfile.SYMTYPE),
        ("etc/shadow", tarfile.LNKTYPE),
        ("layer", tarfile.SYMTYPE),
    ],
)
def test_a_linked_layer_leads_nowhere_outside_the_archive(
    box: Box, tmp_path: Path, link: str, kind: bytes
) -> None:
    extra = ("layer", b"", {"type": kind, "linkname": link})
    image = {"layers": [BASE], "item": {"Layers": ["layer"]}}
    fault = refused(box, docker_archive(tmp_path / "a.tar", [image], extra))
    assert str(fault).endswith("it has no layer")


def test_links_of_a_directory_lead_nowhere_outside_it(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE], compress=lambda data: gzip.compress(data, mtime=0))
    blob = layout.path / "blobs/sha256" / digest(gzip.compress(BASE, mtime=0))[7:]
    blob.rename(tmp_path / "outside")
    blob.symlink_to(tmp_path / "outside")
    assert "it has no blobs/sha256/" in str(refused(box, layout.path))


def test_a_blob_with_other_bytes_is_refused(box: Box, tmp_path: Path) -> None:
    for number in range(3):  # config, manifest, layer
        layout = Layout(tmp_path / f"layout{number}")
        layout.image([BASE])
        blob = sorted((layout.path / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)[number]
        blob.write_bytes(blob.read_bytes()[:-1] + b"!")
        assert refused(box, layout.path).code == "digest-mismatch"


def test_an_archive_cut_off_anywhere_is_refused(box: Box, tmp_path: Path) -> None:
    small = layer(file("f", "f"))
    data = docker_archive(tmp_path / "a.tar", [{"layers": [small], "tags": ["a:1"]}]).read_bytes()
    end = data.index(b"repositories")  # what follows is of no meaning
    for length in range(0, end, 997):
        (tmp_path / "cut.tar").write_bytes(data[:length])
        assert refused(box, tmp_path / "cut.tar").code == "archive-invalid"


@pytest.mark.parametrize("first", ["oci-layout", "etc/passwd"])
def test_an_archive_that_grows_without_an_end_is_refused(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(members, "FREE_EXPANSION", 1_000_000)
    data = layer(file(first), file("zeros", bytes(10_000_000)))
    (tmp_path / "bomb").write_bytes(gzip.compress(data))
    with pytest.raises(Fault, match=r"more than 200 times its [0-9]+ bytes come out of it"):
        box.store.import_path(tmp_path / "bomb", ref("bomb"))
    assert box.store.blobs.digests() == [] and box.leftovers() == []


def test_too_many_entries_are_refused(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    fault = refused(box, docker_archive(tmp_path / "a.tar", [{"layers": [BASE]}]))
    assert "it has more than 3 entries" in str(fault)


def test_a_root_filesystem_is_not_loaded(box: Box, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(BASE)
    fault = refused(box, tmp_path / "rootfs.tar")
    assert fault.code == "archive-invalid" and "stead image import" in str(fault)


def test_what_was_loaded_before_a_wrong_image_stays(box: Box, tmp_path: Path) -> None:
    images = [{"layers": [BASE], "tags": ["good:1"]}, {"layers": [TOP], "diff_ids": [digest(BASE + TOP)]}]
    with pytest.raises(Fault):
        load(box, docker_archive(tmp_path / "a.tar", images))
    assert [image.names for image in box.store.list()] == [("docker.io/library/good:1",)]
    assert len(box.store.layers.chain_ids()) == 1


# ---------------------------------------------------------------- import


def test_a_root_filesystem_comes_through_a_pipe_and_is_said_what_it_runs(box: Box) -> None:
    words = ["-c", 'CMD ["web", "-v"]', "-c", "ENV A=1", "--change", "EXPOSE 80", "-m", "from a pipe"]
    done = stead(box, "image", "import", *words, "-", "web:1", input=gzip.compress(BASE))
    image = box.store.get("web:1")
    assert image is not None and done.stdout.decode().strip() == image.id
    assert image.config["config"] == {"Cmd": ["web", "-v"], "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}}}
    assert image.config["history"][0]["comment"] == "from a pipe"
    assert image.config["rootfs"]["diff_ids"] == [digest(BASE)]
    again = stead(box, "image", "import", *words, "-", input=gzip.compress(BASE))
    assert again.stdout.decode().strip() == image.id


def test_an_import_without_a_name_is_an_image_without_a_name(box: Box, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(BASE)
    words = ["--platform", "linux/arm/v6", str(tmp_path / "rootfs.tar")]
    id = stead(box, "image", "import", *words).stdout.decode().strip()
    image = box.store.get(id)
    assert image is not None and image.names == ()
    assert (image.config["architecture"], image.config["variant"]) == ("arm", "v6")


def test_an_image_archive_says_itself_what_it_runs(box: Box, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([BASE])
    done = stead(box, "image", "import", "-c", "CMD x", str(layout.path), "x:1")
    assert done.returncode == 1 and b"which says itself what it runs" in done.stderr
    assert box.store.list() == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-c", "RUN x", "-"], "cannot import -: --change 1: RUN is no change of an image's config"),
        (["/nowhere/at/all"], "cannot import: /nowhere/at/all: no such file or directory"),
        (["--platform", "a/b/c/d", "-"], "cannot read platform 'a/b/c/d'"),
        (["-"], "cannot import image standard input: it is empty"),
    ],
)
def test_a_wrong_import_says_what_is_wrong(box: Box, words: list[str], text: str) -> None:
    done = stead(box, "image", "import", *words, input=b"")
    assert done.returncode in (1, 2) and text in done.stderr.decode()
    assert box.store.list() == [] and box.store.blobs.digests() == []
