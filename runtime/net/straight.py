"""Effects: what the port of a member has beside its place on the bridge: the member's MAC is fixed to it, and
packets for the host go straight to it.

bridge(8), tc(8), tc-bpf(8); linux/neighbour.h, linux/pkt_cls.h, linux/pkt_sched.h.

What a container sends to its gateway's MAC is for the host. On its way through the bridge it would pass the
bridge's hooks, and with br_netfilter, which docker loads, those of iptables and nftables by a detour. So an
eBPF program at the port (clsact, Linux 4.5) hands IPv4 and IPv6 for that MAC to the bridge's own interface,
as if it had arrived there, and leaves all else to the bridge: 4 % more requests a second of a web server.

The bridge hears less of a member then, and would forget after five minutes behind which port it is, and send
to all of them. So the member's MAC is fixed to its port (`static`), which also keeps others from taking it
(`sticky`, Linux 4.20).

Both live with the link, and need no process. Where the kernel has no such classifier, or does not let us load
programs, all goes through the bridge.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import threading

from runtime.net.addresses import packed_mac
from runtime.net.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from runtime.net.netlink import Netlink

NAME = "stead_straight"
_RTM_NEWNEIGH, _RTM_NEWQDISC, _RTM_GETQDISC, _RTM_NEWTFILTER = 28, 36, 38, 44
_AF_BRIDGE, _NUD_NOARP, _NTF_MASTER, _NTF_STICKY, _NDA_LLADDR = 7, 0x40, 0x04, 0x40, 2
_CLSACT, _CLSACT_HANDLE, _INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _DIRECT_ACTION = 6, 7, 8, 1
_ETH_P_ALL, _HANDLE, _PRIORITY = 3, 1, 1
#: programs that are kept loaded, one for each bridge
_KEPT = 32

_KIND = b"clsact\0"

_lock = threading.Lock()
_programs: dict[tuple[int, str], int] = {}
#: whether the last attempt of this process went well; None: there was none
_works: bool | None = None


def tie(netlink: Netlink, port: int, mac: str, bridge: int, bridge_mac: str) -> None:
    """Give the port (an index) of the member with this MAC what it should have; `bridge` is the index of its
    bridge. Repeatable. Empty `bridge_mac`: its gateway is not on that bridge, and there is no straight way.
    What this kernel cannot do is left out."""
    global _works
    _fix(netlink, port, mac)
    if not bridge_mac or sys.byteorder != "little":
        return
    try:
        _lead(netlink, port, _program(bridge, bridge_mac))
        _works = True
    except OSError as error:
        if error.errno == errno.ENODEV:  # it has gone meanwhile, which its maker finds
            return
        _works = False


def lost(netlink: Netlink, ports: Collection[int]) -> frozenset[int]:
    """Those of these ports without their straight way, in one dump. Empty where this kernel cannot do it: no
    port has it, and none got it."""
    body = struct.pack("=BBHiIII", socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0)
    answers = netlink.ask(_RTM_GETQDISC, body, NLM_F_DUMP)
    there = {struct.unpack_from("=i", data, 4)[0] for data in answers if data[24:31] == _KIND}
    there.intersection_update(ports)
    if _works is False or (_works is None and not there):
        return frozenset()
    return frozenset(ports) - there


def _fix(netlink: Netlink, port: int, mac: str) -> None:
    body = struct.pack("=BBHiHBB", _AF_BRIDGE, 0, 0, port, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY, 0)
    body += attribute(_NDA_LLADDR, packed_mac(mac))
    try:
        netlink.ask(_RTM_NEWNEIGH, body, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
    except OSError:  # it has no bridge, or has gone: who looks finds that
        pass


def _lead(netlink: Netlink, port: int, program: int) -> None:
    body = struct.pack("=BBHiIII", socket.AF_UNSPEC, 0, 0, port, _CLSACT_HANDLE, _CLSACT, 0)
    try:
        netlink.ask(_RTM_NEWQDISC, body + attribute(_TCA_KIND, _KIND), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    except FileExistsError:
        pass
    info = _PRIORITY << 16 | socket.htons(_ETH_P_ALL)
    body = struct.pack("=BBHiIII", socket.AF_UNSPEC, 0, 0, port, _HANDLE, _INGRESS, info)
    options = attribute(_TCA_BPF_FD, struct.pack("=I", program))
    options += attribute(_TCA_BPF_NAME, NAME.encode() + b"\0")
    options += attribute(_TCA_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    body += attribute(_TCA_KIND, b"bpf\0") + attribute(_TCA_OPTIONS, options)
    netlink.ask(_RTM_NEWTFILTER, body, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)


# ---------------------------------------------------------------- the program


def _program(bridge: int, mac: str) -> int:
    """The descriptor of the program for this bridge. Ports keep it, whoever closes that."""
    from runtime.linux import bpf  # not for those who only look

    with _lock:
        program = _programs.get((bridge, mac))
        if program is None:
            program = bpf.load(bpf.SCHED_CLS_PROGRAM, code(bridge, packed_mac(mac)), NAME)
            if len(_programs) >= _KEPT:
                os.close(_programs.pop(next(iter(_programs))))
            _programs[bridge, mac] = program
        return program


def code(bridge: int, mac: bytes) -> bytes:
    """For frames to this MAC: bpf_redirect(bridge, BPF_F_INGRESS) where they carry IP; else TC_ACT_UNSPEC, as
    if there were no program (struct __sk_buff, linux/bpf.h)."""
    from runtime.linux.bpf import assemble, instruction

    data, data_end, length = 76, 80, 14
    first, second = struct.unpack("=iH", mac)
    four, six = (struct.unpack("=H", struct.pack("!H", kind))[0] for kind in (0x0800, 0x86DD))
    return assemble(
        (
            instruction(0x61, 2, 1, data),  # r2 = the frame
            instruction(0x61, 3, 1, data_end),  # r3 = its end
            instruction(0xBF, 4, 2),
            instruction(0x07, 4, value=length),
            ("leave", instruction(0x2D, 4, 3)),  # no whole header
            instruction(0x61, 5, 2, 0),
            ("leave", instruction(0x56, 5, value=first)),  # the MAC that it is for
            instruction(0x69, 5, 2, 4),
            ("leave", instruction(0x55, 5, value=second)),
            instruction(0x69, 5, 2, 12),
            ("take", instruction(0x15, 5, value=four)),
            ("leave", instruction(0x55, 5, value=six)),
            "take",
            instruction(0xB7, 1, value=bridge),
            instruction(0xB7, 2, value=1),  # BPF_F_INGRESS
            instruction(0x85, value=23),  # bpf_redirect
            instruction(0x95),
            "leave",
            instruction(0xB7, 0, value=-1),  # TC_ACT_UNSPEC
            instruction(0x95),
        )
    )
