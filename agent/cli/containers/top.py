"""Effects: `stead top`: the processes of a container, by the machine's own numbers.

As docker does it: the machine's ps(1) with the options given, of which the lines of this container's
processes are shown. Where there is no ps, a table of our own in the columns of `ps -ef`.
"""

from __future__ import annotations

import os

from agent.cli import formatting
from agent.cli.main import Problem, need_root
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection

    from runtime.paths import Paths

DEFAULT = ("-ef",)
HEAD = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
_TIMEOUT = 30.0  # seconds that ps may take


def add_options(parser: argparse.ArgumentParser) -> None:
    import argparse

    parser.add_argument("name", metavar="NAME")
    parser.add_argument("ps", nargs=argparse.REMAINDER, metavar="OPTION", help="of ps, such as -o pid,args")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime import attend
    from runtime.linux import cgroups

    need_root()
    record = attend.find(paths, options.name)
    state = attend.live_state(paths, record)
    if state is None or not state.pid:
        raise Fault("container-not-running", "list processes of container", record.name, "it is not running")
    pids = set(cgroups.detect().pids(state.cgroup))
    for line in formatting.aligned(_table(pids, options.ps)):
        print(line)
    return 0


def _table(pids: Collection[int], words: list[str]) -> list[list[str]]:
    import subprocess

    command = ["ps", *(words or DEFAULT)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT)
    except FileNotFoundError:
        if words:
            raise Problem("cannot use options of ps: this machine has no ps (package procps)") from None
        return own_table(pids)
    if done.returncode:
        raise Problem(f"cannot run {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return chosen(done.stdout, pids)


def chosen(text: str, pids: Collection[int]) -> list[list[str]]:
    """The head and the lines of `pids` in what ps printed. The last column is all the rest of a line."""
    lines = text.splitlines()
    head = lines[0].split() if lines else []
    if "PID" not in head:
        raise Problem("cannot find the column PID in what ps prints: ask it for pid, too")
    at, rows = head.index("PID"), [[formatting.visible(word) for word in head]]
    within = False
    for line in lines[1:]:
        cells = line.split(None, len(head) - 1)
        if len(cells) > at and cells[at].isdigit():
            within = int(cells[at]) in pids
        elif not (cells and cells[0] == "-"):  # a thread's line has - in place of its process
            within = False
        if within:
            rows.append([formatting.visible(cell) for cell in cells])
    return rows


def own_table(pids: Collection[int]) -> list[list[str]]:
    """From /proc: proc(5). What ends meanwhile is left out."""
    rows = [list(HEAD)]
    for pid in sorted(pids):
        try:
            rows.append(_own_row(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return rows


def _own_row(pid: int) -> list[str]:
    import time

    def read(name: str) -> bytes:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()

    stat = read("stat").decode("utf-8", "replace")
    name, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(fields[11]) + int(fields[12])) // ticks
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / ticks
    lived = max(1.0, time.time() - started)
    words = read("cmdline").rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace") or f"[{name}]"
    uid = os.stat(f"/proc/{pid}").st_uid
    return [
        "root" if uid == 0 else str(uid),
        str(pid),
        fields[1],
        str(min(99, int(100 * used / lived))),
        time.strftime("%H:%M" if lived < 86400 else "%b%d", time.localtime(started)),
        _terminal(int(fields[4])),
        f"{used // 3600:02}:{used // 60 % 60:02}:{used % 60:02}",
        formatting.visible(words),
    ]


def _terminal(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    return f"pts/{(major - 136) * 256 + minor}" if 136 <= major <= 143 else "?"
