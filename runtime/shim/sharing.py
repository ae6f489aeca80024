"""Effects: keep the memory of forked processes shared for as long as can be.

A forked process copies each page that it writes to, and CPython writes a reference count wherever it looks.
Called by the zygote, in this order: `fill_holes` before and after our own modules are imported, so that what
shims look at lies close together; `make_immortal`, which since CPython 3.12 ends the counting; no collection
ever walks over all of it; `keeper.rehearse`, since where an attribute was found is remembered with its name,
of which references are counted, too. A shim then has 2.1 MiB of its own on 3.11, 1.1 MiB on 3.12 and 3.13;
one that only keeps (runtime.shim.keeper) has less than 0.6 MiB.
"""

from __future__ import annotations

import ctypes
import gc
import sys

#: Bytes put into each size class of the small-object allocator: more than its holes.
FILLING = 65536
SMALL = 512  # obmalloc.c: SMALL_REQUEST_THRESHOLD, in steps of ALIGNMENT = 16

#: Versions in which the lower half of a 64-bit ob_refcnt with its highest bit set says immortal: PEP 683,
#: Include/object.h.
_IMMORTAL_VERSIONS = ((3, 12), (3, 13))
_IMMORTAL = 0xFFFFFFFF


def fill_holes() -> list[list[bytes]]:
    """Objects of every small size, in number enough that the next ones begin new pages. To be kept."""
    header = sys.getsizeof(b"")
    return [[bytes(size - header) for _ in range(FILLING // size)] for size in range(48, SMALL + 1, 16)]


def make_immortal() -> None:
    """All that is alive stays so to the end and is not counted any more. Nothing on other CPythons."""
    if sys.version_info[:2] not in _IMMORTAL_VERSIONS or not sys.maxsize > 1 << 32:
        return
    seen: set[int] = set()
    waiting = gc.get_objects()
    own = {id(seen), id(waiting), id(sys._getframe())}
    while waiting:
        item = waiting.pop()
        if id(item) not in seen and id(item) not in own:
            seen.add(id(item))
            waiting.extend(gc.get_referents(item))
            ctypes.c_uint32.from_address(id(item)).value = _IMMORTAL
