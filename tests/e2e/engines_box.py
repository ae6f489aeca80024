"""An image for other people's engines that run their containers with `stead-oci`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

IMAGE = "localhost/box:1"
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home:/bin/sh\n"


def image_archive(base: Path) -> Path:
    """A root file system of busybox as a tar archive."""
    rootfs = base / "rootfs"
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc", "root", "home"):
        (rootfs / name).mkdir(parents=True)
    busybox = shutil.copy("/usr/bin/busybox", rootfs / "bin" / "busybox")
    for applet in subprocess.check_output([busybox, "--list"], text=True).split():
        if applet != "busybox":
            (rootfs / "bin" / applet).symlink_to("busybox")
    (rootfs / "etc" / "passwd").write_text(PASSWD)
    (rootfs / "etc" / "group").write_text("root:x:0:\nweb:x:1000:\n")
    subprocess.run(["tar", "-C", str(rootfs), "-cf", str(base / "image.tar"), "."], check=True)
    return base / "image.tar"
