"""Effects: the image that pulls are measured with, a registry that has it, the memory that a pull takes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

#: of each layer: entries, and bytes of its files; together 18,600 and 586 MB
LAYERS = ((6500, 190_000_000), (7500, 230_000_000), (4400, 150_000_000), (200, 16_000_000))
#: where files of all kinds and sizes come from: whatever this machine has
SOURCES = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/include", "/usr/sbin")
RUNS = 5
LARGEST = 12_000_000  # bytes of one file
GZIP_LEVEL = 6  # what docker push makes
SAMPLE = 0.05  # seconds between two looks at the memory


class Pool:
    """Files of this machine in an order that is always the same, small ones and large ones apart."""

    def __init__(self, mean: int) -> None:
        self.mean = mean
        self.small: list[tuple[str, int]] = []
        self.large: list[tuple[str, int]] = []
        for top in SOURCES:
            for folder, folders, names in os.walk(top):
                folders.sort()
                for name in names:
                    path = os.path.join(folder, name)
                    status = os.lstat(path)
                    if stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST:
                        (self.large if status.st_size > mean else self.small).append((path, status.st_size))
        order = random.Random(1)
        self.small.sort(), order.shuffle(self.large)

    def take(self, entries: int, size: int) -> Iterator[tuple[str, int]]:
        """So many files of so many bytes in all, directories counted as entries."""
        done, folders = 0, set[str]()
        while entries > 0 and self.small and self.large:
            wanted = (size - done) // entries
            picked = (self.large if wanted > self.mean else self.small).pop(0)
            parents = {str(parent) for parent in Path(picked[0]).parents} - {"/"}
            entries -= 1 + len(parents - folders)
            folders |= parents
            done += picked[1]
            yield picked


def _whole_seconds(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """As docker and buildkit write times: fractions would need a pax header each."""
    info.mtime = int(info.mtime)
    return info


def _variant(number: int) -> bytes:
    """What comes first in the layers of one of the images: an entry without the end mark of an archive."""
    info = tarfile.TarInfo(f"variant-{number}")
    return info.tobuf(tarfile.PAX_FORMAT)


def _layer(path: Path, files: Sequence[tuple[str, int]], variants: int) -> tuple[list[str], int]:
    """Writes all but the first entry of the layer. Returns its diff id in each image, and its entries."""
    count, folders = 1, set[str]()
    digests = [hashlib.sha256(_variant(number)) for number in range(variants)]

    class Hashed:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            for digest in digests:
                digest.update(data)
            return int(self.file.write(data))

    with gzip.GzipFile(path, "wb", GZIP_LEVEL, mtime=0) as file:
        with tarfile.open(fileobj=Hashed(file), mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for name, _ in files:
                parents = [str(parent) for parent in reversed(Path(name).parents) if str(parent) != "/"]
                for parent in [item for item in parents if item not in folders]:
                    folders.add(parent)
                    archive.add(parent, recursive=False, filter=_whole_seconds)
                    count += 1
                archive.add(name, recursive=False, filter=_whole_seconds)
                count += 1
    return [f"sha256:{digest.hexdigest()}" for digest in digests], count


class Layout:
    """An OCI layout with images that are alike and have no layer in common, as `0`, `1` and so on: what was
    pulled need not be removed before the next pull, and ext4 is slow where files were just removed.
    """

    def __init__(self, directory: Path, images: int) -> None:
        self._blobs = directory / "blobs/sha256"
        self._blobs.mkdir(parents=True)
        pool = Pool(sum(size for _, size in LAYERS) // sum(count for count, _ in LAYERS))
        chosen = [list(pool.take(count, size)) for count, size in LAYERS]
        scratch = [directory / f"layer{number}" for number in range(len(chosen))]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            made = list(threads.map(_layer, scratch, chosen, [images] * len(chosen)))
        bodies = [path.read_bytes() for path in scratch]
        for path in scratch:
            path.unlink()
        manifests = []
        for number in range(images):
            first = gzip.compress(_variant(number), mtime=0)
            manifests.append(self._image([first + body for body in bodies], [ids[number] for ids, _ in made]))
            manifests[-1]["annotations"] = {"org.opencontainers.image.ref.name": str(number)}
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
        self.entries = sum(count for _, count in made)
        self.bytes = sum(size for layer in chosen for _, size in layer)
        self.compressed = sum(map(len, bodies))

    def __str__(self) -> str:
        unpacked, packed = self.bytes // 1_000_000, self.compressed // 1_000_000
        return f"{len(LAYERS)} layers, {unpacked} MB, {packed} MB gzip, {self.entries} entries"

    def _image(self, layers: list[bytes], diff_ids: list[str]) -> dict[str, Any]:
        oci = "application/vnd.oci.image"
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": self._blob(json.dumps(config).encode(), f"{oci}.config.v1+json"),
            "layers": [self._blob(data, f"{oci}.layer.v1.tar+gzip") for data in layers],
        }
        return self._blob(json.dumps(manifest).encode(), f"{oci}.manifest.v1+json")

    def _blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (self._blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}


class Registry:
    """Debian's docker-registry on a loopback port, in the network namespace that `prefix` enters."""

    def __init__(self, data: Path, log: Path, prefix: Sequence[str] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(data)}},
            "http": {"addr": self.address, "secret": "bench"},
        }
        file = log.with_suffix(".yml")
        file.write_text(json.dumps(config))
        if prefix:
            subprocess.run([*prefix, "ip", "link", "set", "lo", "up"], check=True)
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*prefix, "docker-registry", "serve", str(file)], stdout=out, stderr=out
            )
        probe_words = [*prefix, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{self.address.rpartition(':')[2]}"]
        deadline = time.monotonic() + 20
        while subprocess.run(probe_words, capture_output=True).returncode:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"docker-registry does not listen: {log.read_text()[-300:]}")
            time.sleep(0.05)

    def image(self, number: int) -> str:
        return f"{self.address}/bench/large:{number}"

    def push(self, layout: Path, number: int) -> None:
        words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:{number}"]
        subprocess.run([*words, f"docker://{self.image(number)}"], check=True)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


def pull(bench: Bench) -> None:
    """Pull and unpack an image from a registry on this machine, with the engine's own command."""
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            print(f"without pull: {program} is not installed")
            return
    base, stead = bench.stead.base, bench.stead
    layout = Layout(base / "layout", RUNS + 1)
    with ExitStack() as stack:
        registry = stack.enter_context(closing(Registry(base / "registry", base / "registry.log")))
        for number in range(RUNS + 1):
            registry.push(base / "layout", number)
        shutil.rmtree(base / "layout")
        pullers = [Puller("stead", stead.words("image", "pull", "-q"), {}, registry)]
        for rival in bench.rivals:
            log = rival.base / "registry.log"
            registry = stack.enter_context(closing(Registry(base / "registry", log, rival.entering)))
            words = rival.command("pull", "-q", *rival.plain_http)
            pullers.append(Puller(rival.name, words, rival.environment, registry))
        for number in range(RUNS + 1):  # in turn: what else the machine does falls on all of them
            for puller in pullers:
                puller.pull(number)
    for puller in pullers:
        puller.report(bench, str(layout))


class Puller:
    """One engine: the command that pulls with it, and what its pulls took."""

    def __init__(self, name: str, words: list[str], environment: dict[str, str], registry: Registry) -> None:
        self._name, self._words, self._registry = name, words, registry
        self._environment = {**os.environ, **environment}
        self._found: list[tuple[float, float]] = []

    def pull(self, number: int) -> None:
        self._found.append(_pulled([*self._words, self._registry.image(number)], self._environment))

    def report(self, bench: Bench, note: str) -> None:
        """The first pull, which reads the programs from the disk, is left out."""
        seconds, peaks = zip(*self._found[1:], strict=True)
        is_ours = self._name == "stead"
        bench.add("pull and unpack", self._name, "s", list(seconds), note=note if is_ours else "")
        if is_ours:
            note = "PSS, all its processes"
            bench.add("memory of a pull", self._name, "MiB", list(peaks), target=150, note=note)


def _pulled(words: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run one pull: seconds until it ends, and the most MiB (PSS) that its processes had together."""
    os.sync()
    peak, done = [0.0], threading.Event()

    def watch(pid: int) -> None:
        while not done.wait(SAMPLE):
            peak[0] = max(peak[0], sum(_pss(member) for member in _family(pid)))

    begin = time.perf_counter()
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        watcher = threading.Thread(target=watch, args=(process.pid,))
        watcher.start()
        out, trouble = process.communicate()
        seconds = time.perf_counter() - begin
        done.set()
        watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(trouble or out).decode()[-300:]}")
    return seconds, peak[0]


def _family(pid: int) -> list[int]:
    found = [pid]
    for member in found:
        try:
            for task in os.listdir(f"/proc/{member}/task"):
                words = Path(f"/proc/{member}/task/{task}/children").read_text().split()
                found += [int(word) for word in words]
        except OSError:
            continue
    return found


def _pss(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
