"""Effects: the commands of `stead oci`, each by its name: what the command line says becomes a call."""

from __future__ import annotations

import os

from runtime.linux import cgroups, jsontext
from runtime.oci import records
from runtime.oci.failure import OciFailure
from runtime.oci.main import RELEASE, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.oci.arguments import Call
    from runtime.oci.create import Order

    Warn = Callable[[str], None]


def _order(call: Call, root: str, systemd: bool) -> Order:
    from runtime.oci import create

    options = call.options
    return create.Order(
        root=root,
        id=call.words[0],
        bundle=os.path.abspath(options.get("bundle") or "."),
        pid_file=str(options.get("pid-file") or ""),
        console=None,
        pivots=not options.get("no-pivot"),
        keyring=not options.get("no-new-keyring"),
        preserved=_preserved(call),
        systemd=systemd,
    )


def _preserved(call: Call) -> int:
    """How many descriptors from 3 on go to the program: all of them are open."""
    number = int(call.options.get("preserve-fds") or 0)
    if number < 0:
        raise OciFailure(f"cannot preserve {number} descriptors")
    for fd in range(3, 3 + number):
        try:
            os.fstat(fd)
        except OSError:
            raise OciFailure(f"cannot preserve {number} descriptors: {fd} is not open") from None
    return number


def _check_console(wanted: bool, socket: str, *, detached: bool) -> None:
    """As runc has it: a terminal needs someone who takes it, and only a terminal does."""
    if wanted and detached and not socket:
        raise OciFailure("cannot make a terminal in the background: nobody takes it; use --console-socket")
    if socket and not (wanted and detached):
        raise OciFailure("cannot use --console-socket: there is no terminal, or it is shown here")


def run_create(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import create, foreground

    order, socket = _order(call, root, systemd), str(call.options.get("console-socket") or "")
    terminal = create.wants_terminal(order.bundle)
    _check_console(terminal, socket, detached=True)
    channel = foreground.connect(socket) if socket else None
    order.console = channel.fileno() if channel is not None else None
    create.create(order, warn)
    return 0


def run_run(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import commands, create, foreground

    order, options = _order(call, root, systemd), call.options
    socket, detached = str(options.get("console-socket") or ""), bool(options.get("detach"))
    terminal = create.wants_terminal(order.bundle)
    _check_console(terminal, socket, detached=detached)
    shown = None
    if socket:
        channel = foreground.connect(socket)
        order.console = channel.fileno()
    elif terminal:
        from runtime.oci.terminal import Terminal

        shown = Terminal()
        order.console = shown.fileno()
    record, child = create.create(order, warn)
    host = cgroups.detect()
    try:
        if shown is not None:
            shown.take()
        create.start(record, host, warn)
        if detached:
            return 0
        code = foreground.wait(child, shown)
    except BaseException:
        commands.delete(record, host, warn, force=True)
        raise
    finally:
        if shown is not None:
            shown.close()
    if not options.get("keep"):
        commands.delete(record, host, warn, force=True)
    return code


def run_exec(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import create, foreground, joining

    options, record = call.options, records.load(root, call.words[0])
    process = joining.process_of(record, options, call.words[1:], warn)
    socket, detached = str(options.get("console-socket") or ""), bool(options.get("detach"))
    _check_console(bool(process.get("terminal")), socket, detached=detached)
    console, shown = None, None
    if socket:
        channel = foreground.connect(socket)
        console = channel.fileno()
    elif process.get("terminal"):
        from runtime.oci.terminal import Terminal

        shown = Terminal()
        console = shown.fileno()
    try:
        child = joining.join(
            record,
            cgroups.detect(),
            process,
            root,
            console=console,
            preserved=_preserved(call),
            groups_below=list(options.get("cgroup") or ()),
            ignore_paused=bool(options.get("ignore-paused")),
        )
        if options.get("pid-file"):
            create.write_pid(str(options["pid-file"]), child.pid)
        if shown is not None:
            shown.take()
        return 0 if detached else foreground.wait(child, shown)
    finally:
        if shown is not None:
            shown.close()


def run_start(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import create

    create.start(records.load(root, call.words[0]), cgroups.detect(), warn)
    return 0


def run_state(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import commands

    _say(jsontext.encode(commands.state(records.load(root, call.words[0]), cgroups.detect())).decode())
    return 0


def run_kill(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import commands

    number = commands.signal_number(call.words[1] if len(call.words) > 1 else "TERM")
    record = records.load(root, call.words[0])
    commands.kill(record, cgroups.detect(), number, all=bool(call.options.get("all")))
    return 0


def run_delete(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import commands

    force = bool(call.options.get("force"))
    try:
        record = records.load(root, call.words[0])
    except OciFailure:
        if force and not os.path.isdir(records.directory_of(root, call.words[0])):
            return 0
        if not force:
            raise
        records.Record(records.directory_of(root, call.words[0]), {}).remove()  # a crash before its record
        return 0
    commands.delete(record, cgroups.detect(), warn, force=force)
    return 0


def run_list(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import commands

    options = call.options
    quiet, format = bool(options.get("quiet")), str(options.get("format") or "")
    _say(commands.list_text(root, cgroups.detect(), quiet=quiet, format=format))
    return 0


def run_ps(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import commands

    record, format = records.load(root, call.words[0]), str(call.options.get("format") or "")
    _say(commands.ps_text(record, cgroups.detect(), call.words[1:], format))
    return 0


def run_pause(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import commands

    commands.pause(records.load(root, call.words[0]), cgroups.detect())
    return 0


def run_resume(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import commands

    commands.resume(records.load(root, call.words[0]), cgroups.detect())
    return 0


def run_update(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import commands

    change = commands.change_of(call.options, warn)
    commands.update(records.load(root, call.words[0]), cgroups.detect(), change)
    return 0


def run_events(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import events

    interval = events.seconds(str(call.options.get("interval") or "5s"))
    once = bool(call.options.get("stats"))
    events.watch(records.load(root, call.words[0]), cgroups.detect(), interval, _say, once=once)
    return 0


def run_spec(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    import json

    from runtime.oci import documents

    if call.options.get("rootless"):
        raise OciFailure("cannot write a rootless spec: containers are root's here")
    path = os.path.join(call.options.get("bundle") or ".", "config.json")
    if os.path.exists(path):
        raise OciFailure(f"file {path} exists. Remove it first")
    with open(path, "x") as file:
        file.write(json.dumps(documents.new_config(), indent="\t") + "\n")
    return 0


def run_features(call: Call, root: str, systemd: bool, warn: Warn) -> int:
    from runtime.oci import documents

    apparmor, selinux = os.path.isdir("/sys/kernel/security/apparmor"), os.path.isdir("/sys/fs/selinux")
    document: dict[str, Any] = documents.features(RELEASE, apparmor=apparmor, selinux=selinux)
    _say(jsontext.encode(document).decode())
    return 0


def _say(text: str) -> None:
    say(text if text.endswith("\n") or not text else f"{text}\n")
