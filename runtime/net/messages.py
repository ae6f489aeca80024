"""Effects: pyroute2's encoders of rtnetlink messages, without the rest of that package.

Its `__init__` loads all that it has: an event loop, a database, tools for tests. That is 0.2 s of a command
that asks the kernel for three links. Here the package is a name only while the encoders are loaded."""

from __future__ import annotations

import sys
import threading
from functools import cache
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

_lock = threading.Lock()


@cache
def encoders() -> dict[str, Any]:
    """The message classes of links and addresses, and that of routes, by their names in pyroute2."""
    with _lock:
        alone = "pyroute2" not in sys.modules
        if alone:
            sys.modules["pyroute2"] = _bare()
        try:
            from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
            from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
            from pyroute2.netlink.rtnl.rtmsg import rtmsg
        finally:
            if alone:
                del sys.modules["pyroute2"]  # who wants all of it gets all of it
    return {"ifaddrmsg": ifaddrmsg, "ifinfmsg": ifinfmsg, "rtmsg": rtmsg}


def _bare() -> ModuleType:
    """The package with its modules, of which none is loaded. ModuleNotFoundError where it is not
    installed."""
    spec = PathFinder.find_spec("pyroute2")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("No module named 'pyroute2'", name="pyroute2")
    module = ModuleType("pyroute2")
    module.__path__ = spec.submodule_search_locations
    module.__spec__ = spec
    return module
