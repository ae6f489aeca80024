"""Values: the options of a volume, `driver_opts`: what lies behind its directory. Standard library only.

The words are those of Docker's local driver (type, device, o, size), and `loop` for a file system in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from specs.values import ByteSize

KEYS = ("type", "device", "o", "size", "loop")
#: What a file of `loop` may be made to: there is a mkfs for each.
FILESYSTEMS = ("ext4", "xfs", "btrfs")
#: Bytes; less holds no file system with a journal.
SMALLEST_LOOP = 2 << 20


class OptionMistake(ValueError):
    """`key` is the option that is wrong; empty: they are as a whole."""

    def __init__(self, key: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.key, self.hint = key, hint


@dataclass(frozen=True, slots=True)
class Backing:
    """What a volume's content lies on.

    kind    directory   of the state directory; `size` in bytes is its limit by project quota, 0: none
            mount       what mount(8) makes of `type`, `device` and `flags`
            loop        a file of `size` bytes with the file system `type`
    """

    kind: str = "directory"
    type: str = ""
    device: str = ""
    flags: tuple[str, ...] = ()
    size: int = 0

    @property
    def mounted(self) -> bool:
        """It is there only while something is mounted on the volume's directory."""
        return self.kind != "directory"

    @property
    def lasting(self) -> bool:
        """Its content outlives the last user."""
        return self.type not in ("tmpfs", "ramfs")


def backing(options: Mapping[str, str]) -> Backing:
    """What the options mean together. Raises OptionMistake."""
    for key in options:
        if key not in KEYS:
            raise OptionMistake(key, f"unknown option {key!r}", f"known are {', '.join(KEYS)}")
    flags = tuple(word for word in options.get("o", "").split(",") if word)
    size = _size(options)
    if options.get("loop"):
        return _loop(options, flags, size)
    if any(options.get(key) for key in ("type", "device", "o")):
        return _mount(options, flags)
    return Backing(size=size)


def _size(options: Mapping[str, str]) -> int:
    if "size" not in options:
        return 0
    try:
        size = int(ByteSize.parse(options["size"]))
    except ValueError as error:
        raise OptionMistake("size", str(error)) from None
    if size <= 0:
        raise OptionMistake("size", "a size is more than 0")
    return size


def _loop(options: Mapping[str, str], flags: tuple[str, ...], size: int) -> Backing:
    kind = options["loop"]
    if kind not in FILESYSTEMS:
        raise OptionMistake("loop", f"cannot use {kind!r}: write one of {', '.join(FILESYSTEMS)}")
    for key in ("type", "device"):
        if options.get(key):
            raise OptionMistake(key, f"loop makes a file of its own; {key} does not go with it")
    if not size:
        raise OptionMistake("loop", "loop needs size: that of the file")
    if size < SMALLEST_LOOP:
        raise OptionMistake("size", f"a file system needs {ByteSize(SMALLEST_LOOP)} or more")
    return Backing("loop", kind, flags=flags, size=size)


def _mount(options: Mapping[str, str], flags: tuple[str, ...]) -> Backing:
    kind, device = options.get("type", ""), options.get("device", "")
    bind = "bind" in flags or "rbind" in flags
    if "size" in options:
        hint = 'write o = "size=..."' if kind == "tmpfs" else "leave size out"
        raise OptionMistake("size", "size is for a volume without type and device", hint)
    if not kind:
        if not bind:
            raise OptionMistake("", "type is missing: which file system is it?", 'for a directory o = "bind"')
        kind = "none"
    if not device:
        if kind not in ("tmpfs", "ramfs"):
            raise OptionMistake("", "device is missing: what is to be mounted?")
        device = kind
    if bind and not device.startswith("/"):
        raise OptionMistake("device", f"cannot bind {device!r}: write an absolute path")
    if device.startswith("-") or kind.startswith("-"):
        raise OptionMistake("device", f"cannot mount {device!r}: it begins with a hyphen")
    if kind.startswith("nfs") and device.startswith(":"):  # as Docker has it: the host stands in o
        hosts = [word.removeprefix("addr=") for word in flags if word.startswith("addr=")]
        if not hosts:
            raise OptionMistake(
                "device", f"cannot mount {device!r}: no host", "write HOST:/PATH, or addr= in o"
            )
        device, flags = hosts[0] + device, tuple(word for word in flags if not word.startswith("addr="))
    return Backing("mount", kind, device, flags)
