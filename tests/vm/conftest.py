"""One fresh machine for all tests of this folder; each test finds it converged and leaves it so."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm.machine import IMAGE, REPOSITORY, Node, download_wheels

#: QEMU before 8.0 may go on with code as it was before another processor changed it, for good: when the
#: kernel switches a branch of its scheduler, as at the first and the last limit of cpus, both processors then
#: meet a breakpoint that is no longer there, and the machine answers no more. In one thread this cannot be.
ONE_THREAD = "tcg,thread=single,tb-size=256"

STOCK = """
lsmod | cut -d ' ' -f 1 | grep -x -e overlay -e bridge -e br_netfilter -e nf_tables || echo no modules
cat /proc/sys/net/ipv4/ip_forward /sys/fs/cgroup/cgroup.subtree_control
grep ^nameserver /etc/resolv.conf
stat -f -c %T /sys/fs/cgroup
"""


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    tool = os.environ.get("STEAD_VM", "")
    if not tool:
        pytest.skip("STEAD_VM does not name a tool that boots virtual machines")
    if os.geteuid() != 0:
        pytest.skip("needs root, to make the machine's disk")
    for command in ("qemu-system-x86_64", "qemu-img"):
        if shutil.which(command) is None:
            pytest.skip(f"needs {command}")
    os.environ.setdefault("VM_ACCEL", ONE_THREAD)
    wheels: Path = tmp_path_factory.mktemp("vm") / "wheels"
    node = Node(tool, f"stead-test-{os.getpid()}")
    # whoever ends these tests ends the machine; SIGINT alone does not come to what a shell started aside
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(1) as aside:
            up = aside.submit(node.vm, "up", timeout=900)
            download_wheels(wheels)
            up.result()
        node.before = node.run(STOCK)
        node.install(wheels)
        node.run(IMAGE)
        node.run(REPOSITORY)
        yield node
    finally:
        node.vm("rm")
