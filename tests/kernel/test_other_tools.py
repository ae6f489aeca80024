"""Images that other people's tools read from us and write for us: skopeo, umoci, podman, buildah, docker."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.rivals import Docker, Podman, Unavailable
from benchmarks.rivals import Engine as Rival
from runtime import attend
from runtime.commit import CommitRequest, Writings
from runtime.images import sinks
from runtime.linux import cgroups
from specs.values import ImageRef
from tests.kernel.engine_box import IMAGE, Engine, engine
from tests.kernel.images_box import Box, LocalRegistry, needs_registry, needs_umoci, store, tree

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containers, overlay mounts"),
]

NAME = "example.test/written:1"
SCRIPT = (
    "echo new > /etc/new; rm /etc/group; rm -r /home; mkdir /home; echo z > /home/z; chown 7:8 /home/z;"
    " chmod 4711 /home/z; busybox ln /home/z /home/hard; busybox ln -s ../etc/new /home/soft;"
    " mknod /root/null c 1 3; mkfifo /root/pipe; mkdir /%s; chmod 700 /tmp" % ("d" * 120)
)
#: What a container of the image says of it, whoever runs it.
LOOK = (
    "cat /etc/new; ls /home; test -e /etc/group || echo gone;"
    " stat -c '%a %u %g %h' /home/z; stat -c '%F %t %T' /root/null; stat -c %a /tmp; echo $GIVEN"
)
SEEN = ["new", "hard", "soft", "z", "gone", "4711 7 8 2", "character special file 1 3", "700", "yes"]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(programs)}")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A runtime with the image NAME: busybox, and over it the layer of a container that was committed."""
    with engine(tmp_path_factory.mktemp("stead")) as made:
        name = made.start(SCRIPT, environment={"GIVEN": "yes"}, command=("sh", "-c", SCRIPT))
        assert made.result(name).code == 0, made.result(name)
        record = attend.find(made.paths, name)
        request = CommitRequest("2030-01-02T03:04:05Z", ImageRef.parse(NAME), changes=('CMD ["sh"]',))
        Writings(made.paths, made.runtime.images, cgroups.detect()).commit(record, request)
        yield made


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Box]:
    with store(tmp_path / "second") as made:
        yield made


@pytest.fixture(scope="module")
def rootfs(box: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of busybox, for engines that begin with one."""
    path = tmp_path_factory.mktemp("rootfs") / "rootfs.tar"
    image = box.runtime.images.get(str(IMAGE))
    assert image is not None
    path.write_bytes(b"".join(box.runtime.images.layer_tar(image.chain_ids[0])))
    return path


def opened(kind: type[Rival], base: Path, rootfs: Path) -> Rival:
    try:
        return kind(base, rootfs)  # type: ignore[call-arg]
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def podman(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rival]:
    made = opened(Podman, tmp_path_factory.mktemp("podman") / "p", rootfs)
    yield made
    made.close()


@pytest.fixture(scope="module")
def docker(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rival]:
    made = opened(Docker, tmp_path_factory.mktemp("docker") / "d", rootfs)
    yield made
    made.close()


def save(box: Engine, path: Path, form: str, *names: str) -> Path:
    if form.endswith("-dir"):
        with sinks.written_folder(path) as folder:
            box.runtime.images.save(names or [NAME], form, sinks.FolderSink(folder))
    else:
        with sinks.written(path) as out:
            sink = sinks.TarSink(out, box.paths.root)
            box.runtime.images.save(names or [NAME], form, sink)
            sink.close()
    return path


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def same_tree(box: Engine, second: Box, path: Path) -> list[str]:
    """What `path` holds is loaded, and is the image NAME to the last bit of metadata; its names."""
    (loaded,) = second.store.load(path)
    image = box.runtime.images.get(NAME)
    assert image is not None
    ours = Box(box.base / "view")
    with second.mounted(loaded.id) as there:
        found = tree(there)
    from runtime.linux import mounts, overlay

    place = ours.root / "merged"
    place.mkdir()
    overlay.mount([*reversed(box.runtime.images.ensure_layers(image.id))], None, None, place)
    try:
        wanted = tree(place)
    finally:
        mounts.unmount(place)
        ours.close()
        shutil.rmtree(ours.root)
    del found["."], wanted["."]
    assert found == wanted
    config, other = image.config, second.store.get(loaded.id).config
    assert other["rootfs"]["diff_ids"] == config["rootfs"]["diff_ids"]
    assert {k: v for k, v in other["config"].items() if v} == config["config"]
    return [name.familiar for name in loaded.names]


# ---------------------------------------------------------------- skopeo, umoci


@needs("skopeo")
@pytest.mark.parametrize(
    ("form", "transport"),
    [
        ("docker-archive", "docker-archive:"),
        ("docker-archive", "oci-archive:"),
        ("oci-archive", "oci-archive:"),
    ],
)
@pytest.mark.parametrize("back", ["docker-archive:", "oci-archive:", "oci:"])
def test_skopeo_reads_what_we_saved_and_we_what_it_copied(
    box: Engine, second: Box, tmp_path: Path, form: str, transport: str, back: str
) -> None:
    path = save(box, tmp_path / "ours", form)
    run("skopeo", "copy", "-q", f"{transport}{path}", f"{back}{tmp_path / 'theirs'}:{NAME}")
    assert same_tree(box, second, tmp_path / "theirs") == [NAME]


@needs("skopeo")
@pytest.mark.parametrize("form", ["oci-dir", "docker-dir"])
def test_skopeo_reads_directories(box: Engine, second: Box, tmp_path: Path, form: str) -> None:
    path = save(box, tmp_path / "ours", form)
    source = f"oci:{path}:1" if form == "oci-dir" else f"dir:{path}"
    run("skopeo", "copy", "-q", source, f"docker-archive:{tmp_path / 'theirs'}:{NAME}")
    assert same_tree(box, second, tmp_path / "theirs") == [NAME]


@needs("skopeo")
def test_a_directory_of_skopeos_is_loaded(box: Engine, second: Box, tmp_path: Path) -> None:
    path = save(box, tmp_path / "ours", "docker-archive")
    run("skopeo", "copy", "-q", f"docker-archive:{path}", f"dir:{tmp_path / 'theirs'}")
    assert same_tree(box, second, tmp_path / "theirs") == []


@needs_registry
def test_what_skopeo_brought_to_a_registry_is_pulled_as_the_same_image(
    box: Engine, second: Box, tmp_path: Path
) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    try:
        path = save(box, tmp_path / "ours", "oci-archive")
        target = f"docker://{registry.address}/written:1"
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci-archive:{path}", target)
        id = second.store.pull(ImageRef.parse(f"{registry.address}/written:1"))
    finally:
        registry.stop()
    image = box.runtime.images.get(NAME)
    assert image is not None and id == image.id


@needs_umoci
def test_umoci_unpacks_what_we_saved_to_the_same_tree(box: Engine, second: Box, tmp_path: Path) -> None:
    path = save(box, tmp_path / "ours", "oci-dir")
    run("umoci", "--log=error", "unpack", "--image", f"{path}:1", tmp_path / "bundle")
    (loaded,) = second.store.load(path)
    with second.mounted(loaded.id) as there:
        ours, theirs = tree(there), tree(tmp_path / "bundle/rootfs")
    del ours["."], theirs["."]
    assert ours == theirs


# ---------------------------------------------------------------- podman, buildah


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_podman_runs_what_we_saved(box: Engine, podman: Rival, tmp_path: Path, form: str) -> None:
    path = save(box, tmp_path / "ours", form)
    said = podman.call("load", "-i", str(path))
    assert said.startswith("Loaded image")
    id = said.rpartition("sha256:")[2] if "sha256:" in said else said.rpartition(" ")[2]
    look = ("run", "--rm", "--network", "none", *podman.options, id, "sh", "-c", LOOK)
    assert podman.call(*look).split("\n") == SEEN
    podman.call("rmi", "-f", id)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_what_podman_saved_is_the_same_image(
    box: Engine, second: Box, podman: Rival, tmp_path: Path, form: str
) -> None:
    podman.call("load", "-i", str(save(box, tmp_path / "ours", "docker-archive")))
    podman.call("save", "-q", "--format", form, "-o", str(tmp_path / "theirs"), NAME)
    assert same_tree(box, second, tmp_path / "theirs") == [NAME]
    podman.call("rmi", "-f", NAME)


@needs("buildah")
def test_buildah_begins_with_what_we_saved_and_we_read_what_it_made(
    box: Engine, second: Box, tmp_path: Path
) -> None:
    path = save(box, tmp_path / "ours", "docker-archive")
    buildah = ["buildah", "--root", tmp_path / "b", "--runroot", tmp_path / "r", "--storage-driver", "vfs"]
    try:
        name = run(*buildah, "from", f"docker-archive:{path}").strip().splitlines()[-1]
        run(*buildah, "config", "--label", "by=buildah", name)
        (tmp_path / "file").write_text("theirs")
        run(*buildah, "copy", name, tmp_path / "file", "/theirs")
        run(*buildah, "commit", "-q", name, f"oci-archive:{tmp_path / 'theirs'}:{NAME}")
        (loaded,) = second.store.load(tmp_path / "theirs")
        assert second.store.get(loaded.id).config["config"]["Labels"]["by"] == "buildah"
        with second.mounted(loaded.id) as there:
            assert (there / "theirs").read_text() == "theirs"
            assert (there / "etc/new").read_text() == "new\n"
            assert not (there / "etc/group").exists()
    finally:
        run(*buildah, "rm", "-a")
        run(*buildah, "rmi", "-a", "-f")


# ---------------------------------------------------------------- docker


def test_docker_runs_what_we_saved(box: Engine, docker: Rival, tmp_path: Path) -> None:
    path = save(box, tmp_path / "ours", "docker-archive", NAME, str(IMAGE))
    said = docker.call("load", "-i", str(path)).splitlines()
    assert sorted(said) == [f"Loaded image: {NAME}", f"Loaded image: {IMAGE.familiar}"]
    look = ("run", "--rm", "--network", "none", NAME, "sh", "-c", LOOK)
    assert docker.call(*look).split("\n") == SEEN
    image = box.runtime.images.get(NAME)
    assert image is not None
    assert docker.call("inspect", "-f", "{{.Id}}", NAME) == image.id


def test_what_docker_saved_is_the_same_image(box: Engine, second: Box, docker: Rival, tmp_path: Path) -> None:
    docker.call("load", "-i", str(save(box, tmp_path / "ours", "docker-archive")))
    docker.call("save", "-o", str(tmp_path / "theirs"), NAME)
    assert same_tree(box, second, tmp_path / "theirs") == [NAME]
    image = box.runtime.images.get(NAME)
    assert image is not None and second.store.get(NAME).id == image.id


def test_what_docker_exported_is_what_we_export(box: Engine, docker: Rival, tmp_path: Path) -> None:
    """The same container in both: the same names with the same metadata, but for what each engine makes for
    its mounts."""
    docker.call("load", "-i", str(save(box, tmp_path / "ours", "docker-archive")))
    docker.call("create", "--name", "exported", NAME, "sh")
    docker.call("export", "-o", str(tmp_path / "theirs.tar"), "exported")
    docker.call("rm", "exported")
    name = box.create("true", image=ImageRef.parse(NAME))
    it = Writings(box.paths, box.runtime.images, cgroups.detect())
    (tmp_path / "ours.tar").write_bytes(b"".join(it.export(attend.find(box.paths, name))))
    assert box.home(name).exists() is False
    ours, theirs = (members(tmp_path / f"{whose}.tar") for whose in ("ours", "theirs"))
    made = {".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "etc", "."}
    made |= {item for item in theirs if item.startswith(("dev", "proc", "sys"))}
    for found in (ours, theirs):
        for item in made & set(found):
            del found[item]
    assert ours == theirs


def members(path: Path) -> dict[str, tuple[object, ...]]:
    """By clean name; which of two hard links comes first is not said."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(path) as archive:
        for item in archive:
            kind = b"file" if item.isfile() or item.islnk() else item.type
            target = archive.getmember(item.linkname) if item.islnk() else item
            name = item.name.removeprefix("./").rstrip("/")
            found[name] = (kind, item.mode & 0o7777, item.uid, item.gid, target.size, int(item.mtime))
    return found


def test_docker_diff_and_ours_say_the_same(box: Engine, docker: Rival, tmp_path: Path) -> None:
    docker.call("load", "-i", str(save(box, tmp_path / "ours", "docker-archive", str(IMAGE))))
    script = "echo x > /etc/new; echo y >> /etc/passwd; rm /etc/group; mkdir -p /srv/a; rm -r /home/web"
    docker.call("run", "--name", "differs", "--network", "none", IMAGE.familiar, "sh", "-c", script)
    theirs = docker.call("diff", "differs").splitlines()
    docker.call("rm", "differs")
    name = box.start(script)
    assert box.result(name).code == 0
    found = Writings(box.paths, box.runtime.images, cgroups.detect()).diff(attend.find(box.paths, name))
    assert sorted(map(str, found)) == sorted(theirs)
