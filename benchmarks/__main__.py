"""`python -m benchmarks [SCENARIO...]`: as root; prints a line a measurement, `--json FILE` keeps them."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import Report
from benchmarks.rivals import Docker, Engine, Podman, Unavailable
from benchmarks.scenarios import SCENARIOS, Bench
from benchmarks.stead import Stead


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], help="default: all")
    parser.add_argument("--runs", type=int, default=15, help="repetitions of what is short")
    parser.add_argument("--engines", default="stead,docker,podman", help="of them, those that are installed")
    parser.add_argument("--json", metavar="FILE", help="write every value")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("benchmarks need root")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what was started ends with us
    report = Report()
    python, load = platform.python_version(), os.getloadavg()[0]
    print(f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {python}, load {load:.2f}")
    compile_modules()
    with ExitStack() as stack:
        base = Path(tempfile.mkdtemp(prefix="stead-bench."))
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        rootfs, archive = make_image(base)
        run = Path(tempfile.mkdtemp(prefix="stead-bench.", dir=in_memory(base)))
        stack.callback(shutil.rmtree, run, ignore_errors=True)
        stead = Stead(base / "stead", rootfs, run / "stead")
        stack.callback(stead.close)
        rivals = open_rivals(options.engines.split(","), base, run, archive, stack)
        bench = Bench(stead, rivals, report, options.runs)
        for name in options.scenario or SCENARIOS:
            SCENARIOS[name](bench)
    if options.json:
        Path(options.json).write_text(json.dumps([row.as_json() for row in report.rows], indent=1) + "\n")
    return 0


def compile_modules() -> None:
    """Each module of ours, as pip does where it installs them; what stands in the way of that goes."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in ("agent", "runtime", "specs"):
        compileall.compile_dir(Path(__file__).parents[1] / name, quiet=1)


def make_image(base: Path) -> tuple[Path, Path]:
    """A root filesystem with Debian's static busybox, and the same as a tar archive."""
    busybox = os.environ.get("BUSYBOX") or shutil.which("busybox")
    if busybox is None or subprocess.run(["ldd", busybox], capture_output=True).returncode == 0:
        sys.exit("benchmarks need a static busybox: install busybox-static, or name one in BUSYBOX")
    rootfs = base / "rootfs"
    (rootfs / "bin").mkdir(parents=True)
    (rootfs / "tmp").mkdir()
    shutil.copy2(busybox, rootfs / "bin" / "busybox")
    for name in ("sh", "sleep", "true", "cat", "touch", "seq", "rm"):
        (rootfs / "bin" / name).symlink_to("busybox")
    archive = base / "rootfs.tar"
    subprocess.run(["tar", "-C", str(rootfs), "-cf", str(archive), "."], check=True)
    return rootfs, archive


def in_memory(base: Path) -> Path:
    """Where the engines have what does not survive a reboot: /run is a tmpfs on a Debian that was booted, and
    not on each machine that builds. `base` where there is none."""
    for place in ("/run", "/dev/shm"):
        found = subprocess.run(["stat", "-f", "-c", "%T", place], capture_output=True, text=True)
        if found.stdout.strip() == "tmpfs":
            return Path(place)
    return base


def open_rivals(names: list[str], base: Path, run: Path, archive: Path, stack: ExitStack) -> list[Engine]:
    found: list[Engine] = []
    for kind in (Docker, Podman):
        if kind.name not in names:
            continue
        try:
            engine = kind(base / kind.name, archive, run / kind.name)
        except Unavailable as reason:
            print(f"without {kind.name}: {reason}")
            continue
        stack.callback(engine.close)
        found.append(engine)
    return found


if __name__ == "__main__":
    sys.exit(main())
