"""Effects: whether this machine runs programs of an image's architecture, by itself or by a handler that was
registered with the kernel. Documentation/admin-guide/binfmt-misc.rst, elf(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.faults import Fault
from runtime.images.manifests import Platform, config_platform

HANDLERS = Path("/proc/sys/fs/binfmt_misc")
MAX_HANDLER = 4096  # bytes of one handler's description

_ELF = bytes.fromhex("7f454c46")
_CLASS_AND_ORDER = slice(4, 6)  # e_ident: 32 or 64 bits, which byte of a number comes first
_MACHINE = slice(18, 20)  # e_machine
_SHAPES = {  # architecture -> (class, order, machine)
    "386": (1, 1, 3),
    "amd64": (2, 1, 62),
    "arm": (1, 1, 40),
    "arm64": (2, 1, 183),
    "loong64": (2, 1, 258),
    "mips64le": (2, 1, 8),
    "ppc64le": (2, 1, 21),
    "riscv64": (2, 1, 243),
    "s390x": (2, 2, 22),
}
_ALSO = {"amd64": ("386",), "arm64": ("arm",)}  # what 64 bit machines run besides


def check_runs(config: Mapping[str, Any], host: Platform, subject: str, handlers: Path = HANDLERS) -> None:
    """Fault platform-missing where the programs of an image with this config would end with `exec format
    error`. One that does not say what it is for, and an architecture that is not known here, are let pass.
    """
    image = config_platform(config)
    is_alike = image.architecture == host.architecture and not config.get("variant")
    if not image.architecture or is_alike or image.fitness(host):
        return
    if image.architecture in _ALSO.get(host.architecture, ()):
        return
    shape = _SHAPES.get(image.architecture)
    if image.architecture == host.architecture:
        cause = f"its image is for {image}, and this machine is {host}"
        raise Fault("platform-missing", "create container", subject, cause)
    if shape is None or shape in _handled(handlers):
        return
    cause = f"its image is for {image}, this machine is {host}, and no emulator is registered"
    hint = "set another platform, or install one: apt-get install qemu-user-static"
    raise Fault("platform-missing", "create container", subject, cause, hint)


def _handled(directory: Path) -> Iterator[tuple[int, int, int]]:
    """The kinds of ELF file that an enabled handler takes."""
    for path in directory.glob("*") if directory.is_dir() else ():
        if path.name in ("register", "status"):
            continue
        try:
            with path.open("rb") as file:
                lines = file.read(MAX_HANDLER).decode("ascii", "replace").splitlines()
        except OSError:
            continue
        magic = next((line.split()[1] for line in lines if line.startswith("magic ")), "")
        if "enabled" in lines and len(magic) >= 2 * _MACHINE.stop:
            head = bytes.fromhex(magic)
            size, order = head[_CLASS_AND_ORDER]
            if head.startswith(_ELF):
                yield size, order, int.from_bytes(head[_MACHINE], "little" if order == 1 else "big")
