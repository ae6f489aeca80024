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
from pathlib import Path
from typing import Any

#: of each layer: entries, and bytes of its files; together 18,600 and 586 MB
LAYERS = ((6500, 190_000_000), (7500, 230_000_000), (4400, 150_000_000), (200, 16_000_000))
#: where files of all kinds and sizes come from: whatever this machine has
SOURCES = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/include", "/usr/sbin")
LARGEST = 12_000_000  # bytes of one file
GZIP_LEVEL = 6  # what docker push makes
NAME = "bench/large:1"
SAMPLE = 0.02  # seconds between two looks at the memory
MARK = "STEAD_BENCH_PULL"  # in the environment of every process of a pull


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


def _layer(path: Path, files: Sequence[tuple[str, int]]) -> tuple[str, int, int]:
    """(diff id, entries, bytes). Directories come before what is in them."""
    count, folders, digest = 0, set[str](), hashlib.sha256()

    class Hashed:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            digest.update(data)
            return int(self.file.write(data))

    with gzip.GzipFile(path, "wb", GZIP_LEVEL, mtime=0) as file:
        with tarfile.open(fileobj=Hashed(file), mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for name, _ in files:
                parents = [str(parent) for parent in reversed(Path(name).parents) if str(parent) != "/"]
                for parent in [item for item in parents if item not in folders]:
                    folders.add(parent)
                    archive.add(parent, recursive=False)
                    count += 1
                archive.add(name, recursive=False)
                count += 1
    return f"sha256:{digest.hexdigest()}", count, sum(size for _, size in files)


def make_layout(directory: Path) -> tuple[int, int, int]:
    """An OCI layout with the image; returns its entries, bytes unpacked and bytes compressed."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    pool = Pool(sum(size for _, size in LAYERS) // sum(count for count, _ in LAYERS))
    chosen = [list(pool.take(count, size)) for count, size in LAYERS]
    scratch = [directory / f"layer{number}" for number in range(len(chosen))]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        made = list(threads.map(_layer, scratch, chosen))

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    oci = "application/vnd.oci.image"
    layers = [blob(path.read_bytes(), f"{oci}.layer.v1.tar+gzip") for path in scratch]
    for path in scratch:
        path.unlink()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _, _ in made]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), f"{oci}.config.v1+json"),
        "layers": layers,
    }
    entry = blob(json.dumps(manifest).encode(), f"{oci}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "large"}
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return (
        sum(count for _, count, _ in made),
        sum(size for _, _, size in made),
        sum(int(layer["size"]) for layer in layers),
    )


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

    @property
    def image(self) -> str:
        return f"{self.address}/{NAME}"

    def push(self, layout: Path) -> None:
        words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:large"]
        subprocess.run([*words, f"docker://{self.image}"], check=True)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


def missing() -> str:
    """The program without which nothing can be measured here; empty when all are there."""
    return next((name for name in ("docker-registry", "skopeo") if shutil.which(name) is None), "")


def pulled(words: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
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
