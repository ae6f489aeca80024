"""Effects: Debian's programs as images in a real registry: nginx by umoci, redis by buildah, busybox by hand.

`./setup test` fetches the packages (programs.txt); they are unpacked, never installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.box import busybox
from tests.kernel.images_box import Layout, LocalRegistry

LIST = Path(__file__).with_name("programs.txt")
DEBS = Path(sys.prefix, "debs")

NGINX = """\
daemon off;
user root;
pid /run/nginx.pid;
error_log /dev/stderr;
events {}
http {
  access_log /dev/stdout;
  server { listen 80; root /srv; }
}
"""


def packages(name: str) -> list[Path]:
    """The .deb files of a program."""
    match = re.search(rf"^{name}: (.*)$", LIST.read_text(), re.MULTILINE)
    assert match is not None
    found = [next(iter(DEBS.glob(f"{package}_*.deb")), None) for package in match[1].split()]
    if None in found:
        pytest.skip("needs Debian packages that ./setup test fetches")
    return [path for path in found if path is not None]


def unpacked(name: str, to: Path) -> Path:
    """A root filesystem with the program and its libraries."""
    for path in packages(name):
        subprocess.run(["dpkg-deb", "-x", str(path), str(to)], check=True)
    for documents in ("doc", "man", "lintian", "locale"):
        shutil.rmtree(to / "usr/share" / documents, ignore_errors=True)
    for place in ("tmp", "run", "etc"):
        (to / place).mkdir(exist_ok=True)
    (to / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (to / "etc/group").write_text("root:x:0:\n")
    return to


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def push_nginx(registry: LocalRegistry, base: Path) -> None:
    """Two layers, by umoci: the program, and its site."""
    root = unpacked("nginx", base / "nginx")
    for place in ("var/lib/nginx", "var/log/nginx", "etc/nginx"):
        (root / place).mkdir(parents=True, exist_ok=True)
    (root / "etc/nginx/nginx.conf").write_text(NGINX)
    site = base / "site"
    site.mkdir()
    (site / "index.html").write_text("real nginx\n")
    layout = base / "layout"
    run("umoci", "init", "--layout", str(layout))
    run("umoci", "new", "--image", f"{layout}:nginx")
    run("umoci", "insert", "--image", f"{layout}:nginx", str(root), "/")
    run("umoci", "insert", "--image", f"{layout}:nginx", str(site), "/srv")
    run("umoci", "config", "--image", f"{layout}:nginx", "--config.entrypoint", "/usr/sbin/nginx")
    registry.push(layout, "nginx", "nginx:1")


def push_redis(registry: LocalRegistry, base: Path) -> None:
    """By buildah, with a store of its own."""
    root = unpacked("redis", base / "redis")
    own = ["buildah", "--root", str(base / "b"), "--runroot", str(base / "br"), "--storage-driver", "vfs"]
    container = run(*own, "from", "scratch")
    run(*own, "copy", "-q", container, str(root), "/")
    command = '["/usr/bin/redis-server", "--protected-mode", "no", "--dir", "/data", "--save", "60 1"]'
    run(*own, "config", "--entrypoint", command, "--volume", "/data", "--stop-signal", "TERM", container)
    run(*own, "commit", "-q", container, "redis:1")
    run(*own, "push", "-q", "--tls-verify=false", "redis:1", f"docker://{registry.address}/redis:1")
    run(*own, "rm", "--all")


def push_busybox(registry: LocalRegistry, base: Path) -> None:
    root = busybox(base / "busybox")
    packed = subprocess.run(["tar", "-C", str(root), "-cf", "-", "."], check=True, capture_output=True)
    layout = Layout(base / "plain")
    layout.image([packed.stdout], tag="busybox", config={"Cmd": ["sh"]})
    registry.push(layout.path, "busybox", "busybox:1")


#: Initialises its directory once, as the database's own images do; checksums show pages that were torn.
POSTGRES_START = """\
#!/bin/sh
set -e
[ -s "$PGDATA/PG_VERSION" ] || initdb --no-locale --encoding=UTF8 --data-checksums --no-sync >/dev/null
exec postgres -c jit=off -c listen_addresses= -c shared_buffers=16MB
"""


def postgres(base: Path) -> Path:
    """A root filesystem with PostgreSQL, whose data directory belongs to the user postgres, and a shell."""
    root = unpacked("postgres", busybox(base / "postgres"))
    programs = root / "usr/lib/postgresql/15"
    shutil.rmtree(programs / "lib/bitcode")
    (root / "usr/bin").mkdir(exist_ok=True)
    for program in (programs / "bin").iterdir():
        (root / "usr/bin" / program.name).unlink(missing_ok=True)
        (root / "usr/bin" / program.name).symlink_to(f"/usr/lib/postgresql/15/bin/{program.name}")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\npostgres:x:999:999::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\npostgres:x:999:\n")
    (root / "bin/start").write_text(POSTGRES_START)
    (root / "bin/start").chmod(0o755)
    for place in ("var/lib/postgresql/data", "var/run/postgresql"):
        (root / place).mkdir(parents=True)
        os.chown(root / place, 999, 999)
        (root / place).chmod(0o700)
    return root
