"""The low-level runtime by itself: the life of a container, its records, and runc's command line.
Needs root."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import cgroups
from tests.kernel.oci_box import STEAD, Bundle, Oci, Workshop, left, workshop
from tests.kernel.shim_box import until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with workshop(tmp_path_factory.mktemp("oci")) as made:
        yield made
        assert str(made.base) not in Path("/proc/self/mountinfo").read_text()


# ---------------------------------------------------------------- life


def test_create_does_all_but_the_program_and_start_lets_it_go(shop: Workshop, tmp_path: Path) -> None:
    bundle = shop.bundle("echo ran; exec sleep 1000")
    bundle.config["annotations"] = {"org.example.key": "value"}
    pid = bundle.create(shop.stead, "--pid-file", str(tmp_path / "pid"))
    assert (tmp_path / "pid").read_text() == str(pid)
    state = shop.stead.state(bundle.id)
    assert bundle.output() == ""
    assert state.pop("created").endswith("Z")
    assert state == {
        "ociVersion": "1.3.0",
        "id": bundle.id,
        "pid": pid,
        "status": "created",
        "bundle": str(bundle.path),
        "rootfs": str(shop.rootfs),
        "annotations": {"org.example.key": "value"},
        "owner": "root",
    }
    shop.stead.well("start", bundle.id)
    until(lambda: bundle.output() == "ran\n")
    assert shop.stead.state(bundle.id)["status"] == "running"
    assert "has already started" in shop.stead("start", bundle.id).errors
    assert "that is not stopped: running" in shop.stead("delete", bundle.id).errors
    assert "already exists" in bundle.run(shop.stead).errors
    shop.stead.well("kill", bundle.id, "KILL")
    until(lambda: shop.stead.state(bundle.id)["status"] == "stopped")
    assert shop.stead.state(bundle.id)["pid"] == 0
    assert "container not running" in shop.stead("kill", bundle.id, "KILL").errors
    shop.stead.well("delete", bundle.id)
    assert left(shop, bundle) == []
    assert "does not exist" in shop.stead("state", bundle.id).errors
    assert "does not exist" in shop.stead("delete", bundle.id).errors
    assert shop.stead("delete", "--force", bundle.id).code == 0


def test_states_and_exit_codes_are_those_of_runc(shop: Workshop) -> None:
    """The same words to both, and both answer the same, but for pids and times."""
    said = []
    for oci in shop.runtimes():
        bundle = shop.bundle("exit 7")
        bundle.id = "same"
        bundle.path.joinpath("config.json").unlink(missing_ok=True)
        codes = [bundle.run(oci).code]
        bundle.script("kill -TERM $$")
        codes.append(bundle.run(oci).code)
        bundle.process["args"] = ["nosuch"]
        missing = bundle.run(oci)
        codes.append(missing.code)
        bundle.script("sleep 1000")
        bundle.start(oci)
        codes += [oci("exec", "same", "sh", "-c", "exit 9").code, oci("exec", "same", "nosuch").code]
        codes += [oci("pause", "same").code, oci("exec", "same", "true").code, oci("resume", "same").code]
        state = oci.state("same")
        codes += [oci("kill", "same", "9").code]
        until(lambda oci=oci: oci.state("same")["status"] == "stopped")
        codes += [oci("kill", "same", "9").code, oci("delete", "same").code, oci("state", "same").code]
        assert re.search(r"exec: ..?nosuch..?: executable file not found in \$PATH", missing.errors)
        said.append((codes, state["status"], state.get("annotations") or {}, state["rootfs"]))
    assert said[0][:2] == ([7, 0, 1, 9, 255, 0, 255, 0, 0, 1, 0, 1], "running")
    assert said[-1] == said[0]


def test_a_program_without_a_name_is_one_that_is_not_found(shop: Workshop) -> None:
    """Engines tell by the words: 127, not 126."""
    for oci in shop.runtimes():
        bundle = shop.bundle()
        bundle.process["args"] = [""]
        said = bundle.run(oci)
        assert said.code == 1
        assert re.search(r'exec: .".": executable file not found in \$PATH', said.errors)


def test_killing_who_creates_leaves_nothing_that_delete_does_not_find(shop: Workshop) -> None:
    """At any point: the record is there before anything else, and what waits ends with who let it wait."""
    for delay in range(6):
        bundle = shop.bundle("sleep 1000").write()
        command = shop.stead.command("create", "--bundle", str(bundle.path), bundle.id)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        creator = subprocess.Popen(command, **quiet)
        record = shop.stead.root / bundle.id / "state.json"
        until(lambda record=record, creator=creator: record.exists() or creator.poll() is not None)
        with contextlib.suppress(subprocess.TimeoutExpired):  # on a busy machine it has ended by now
            creator.wait(delay * 0.01)
        creator.kill()
        creator.wait()
        shop.stead.well("delete", "--force", bundle.id)
        until(lambda bundle=bundle: not cgroups.detect().pids(bundle.id))
        assert left(shop, bundle) == []


def test_a_container_of_the_hosts_pid_namespace_ends_as_a_whole(shop: Workshop) -> None:
    bundle = shop.bundle("sleep 1000 & sleep 1001")
    bundle.without("pid")
    bundle.start(shop.stead)
    until(lambda: len(json.loads(shop.stead.well("ps", "--format", "json", bundle.id))) >= 2)
    shop.stead.well("kill", bundle.id, "KILL")
    until(lambda: json.loads(shop.stead.well("ps", "-f", "json", bundle.id)) == [])
    shop.stead.well("delete", bundle.id)


def test_home_is_that_of_the_containers_passwd_unless_it_is_said(shop: Workshop) -> None:
    """docker leaves it to the runtime. What the file is, or where it leads, is up to the image."""
    passwd = shop.rootfs / "etc" / "passwd"
    kept = passwd.read_text()
    script = "echo $HOME"
    try:
        for oci in shop.runtimes():
            said = []
            passwd.write_text(f"{kept}web:x:7:7::/srv/web:/bin/sh\nnone:x:8:8:::\n")
            for uid, env in ((0, []), (7, []), (8, []), (9, []), (7, ["HOME="]), (7, ["HOME=/own"])):
                bundle = shop.bundle(script)
                bundle.process.update(user={"uid": uid, "gid": 0}, env=["PATH=/bin", *env])
                said.append(bundle.run(oci).out.strip())
            bundle = shop.bundle("exec sleep 1000")
            bundle.start(oci)
            said.append(oci.well("exec", "--user", "7", bundle.id, "sh", "-c", script).strip())
            oci.well("delete", "--force", bundle.id)
            assert said[:2] == ["/", "/srv/web"] and said[3:] == ["/", "/srv/web", "/own", "/srv/web"]
        passwd.unlink()
        os.mkfifo(passwd)
        assert shop.bundle(script).run(shop.stead).out == "/\n"
    finally:
        passwd.unlink()
        passwd.write_text(kept)


# ---------------------------------------------------------------- exec


@pytest.fixture(scope="module")
def running(shop: Workshop) -> Iterator[Bundle]:
    bundle = shop.bundle("exec sleep 1000")
    bundle.process["user"] = {"uid": 7, "gid": 8}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    bundle.start(shop.stead)
    yield bundle
    shop.stead.well("delete", "--force", bundle.id)


def test_exec_is_in_all_that_holds_the_container(shop: Workshop, running: Bundle) -> None:
    pid = shop.stead.state(running.id)["pid"]
    script = "for n in pid mnt net ipc uts cgroup; do readlink /proc/self/ns/$n; done; id -u; id -g;"
    script += "grep Seccomp: /proc/self/status"
    said = shop.stead.well("exec", running.id, "sh", "-c", script).splitlines()
    assert said[:6] == [
        os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "mnt", "net", "ipc", "uts", "cgroup")
    ]
    assert said[6:] == ["7", "8", "Seccomp:\t2"]


def test_options_of_exec_change_the_process(shop: Workshop, running: Bundle) -> None:
    options = [
        "--user",
        "9:10",
        "--additional-gids",
        "11",
        "--env",
        "A=1",
        "--cwd",
        "/home",
        "--no-new-privs",
    ]
    script = "echo $(id -u):$(id -g) $A $(pwd); grep -E 'Groups|NoNew|CapBnd' /proc/self/status"
    said = shop.stead.well("exec", *options, "--cap", "CAP_SYS_PTRACE", running.id, "sh", "-c", script)
    assert said.splitlines()[0] == "9:10 1 /home"
    found = dict(line.split(":", 1) for line in said.splitlines()[1:])
    assert found["Groups"].split() == ["11"] and found["NoNewPrivs"].strip() == "1"
    assert int(found["CapBnd"], 16) >> 19 & 1


def test_groups_of_an_exec_are_added_to_the_containers(shop: Workshop) -> None:
    for oci in shop.runtimes():
        bundle = shop.bundle("exec sleep 1000")
        bundle.process["user"] = {"uid": 7, "gid": 8, "additionalGids": [9]}
        bundle.start(oci)
        said = oci.well("exec", "-g", "11", "-g", "12", bundle.id, "grep", "Groups", "/proc/self/status")
        assert said.split() == ["Groups:", "9", "11", "12"]
        oci.well("delete", "--force", bundle.id)


def test_what_is_passed_over_is_said(shop: Workshop, running: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    path.write_text(json.dumps({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "nosuch": 1}))
    said = shop.stead("exec", "--process", str(path), running.id)
    assert said.code == 0 and f"{path}: process.nosuch is unknown and passed over" in said.errors
    said = shop.stead("exec", "--cap", "CAP_NOSUCH", running.id, "true")
    assert said.code == 0 and "process.capabilities.bounding: CAP_NOSUCH: unknown, not given" in said.errors
    said = shop.stead("update", "--resources", "-", running.id, stdin='{"memory": {"limits": 1}}')
    assert said.code == 0
    assert "standard input: resources.memory.limits is unknown and passed over" in said.errors


BAD_EXEC: dict[str, tuple[list[str], str]] = {
    "an id that is none": (["-u", "4294967295"], "process.user.uid: a number from 0 to 2147483647"),
    "a negative id": (["-u", "-1"], "process.user.uid: a number from 0 to 2147483647"),
    "a group that is none": (["-u", "5:4294967295"], "process.user.gid: a number from 0"),
    "another group that is none": (["-g", "4294967295"], "additionalGids: a list of numbers from 0"),
    "no group": (["-u", "5:"], "--user: '' is no number"),
    "a name": (["-u", "web"], "--user: 'web' is no number"),
    "a group's name": (["-g", "web"], "--additional-gids: 'web' is no number"),
    "a variable without a value": (["-e", "FOO"], "process.env: 'FOO': NAME=VALUE"),
    "a relative directory": (["--cwd", "home"], "process.cwd: it is no absolute path"),
    "a terminal that nobody takes": (["-d", "-t"], "nobody takes it"),
    "a terminal where none is": (["-t"], "there is none here"),
    "a console that is not there": (["-d", "-t", "--console-socket", "/nowhere"], "console socket /nowhere"),
}


@pytest.mark.parametrize("case", BAD_EXEC)
def test_an_exec_that_cannot_be_is_told_with_the_code_of_runc(
    shop: Workshop, running: Bundle, case: str
) -> None:
    options, text = BAD_EXEC[case]
    said = shop.stead("exec", *options, running.id, "id", start_new_session=True)
    assert (said.code, said.out) == (255, "")
    assert said.errors.startswith("time=") and text in said.errors


def test_an_exec_of_a_file_is_checked_like_a_config(shop: Workshop, running: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    for user in ({"uid": -1}, {"uid": "0"}):
        path.write_text(json.dumps({"args": ["id"], "cwd": "/", "user": user}))
        said = shop.stead("exec", "--process", str(path), running.id)
        assert said.code == 255
        assert f"exec failed: cannot use {path}: process.user.uid: a number from 0" in said.errors
    assert shop.stead("exec", "nosuch", "id").code == 255


def test_a_process_of_a_file_is_run_detached_with_its_pid_told(
    shop: Workshop, running: Bundle, tmp_path: Path
) -> None:
    process = {"args": ["sleep", "77"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 3, "gid": 3}}
    (tmp_path / "process.json").write_text(json.dumps(process))
    words = [
        "exec",
        "--process",
        str(tmp_path / "process.json"),
        "--pid-file",
        str(tmp_path / "pid"),
        "--detach",
    ]
    shop.stead.detached(*words, running.id, output=tmp_path / "out")
    pid = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0077\x00"
    assert os.stat(f"/proc/{pid}").st_uid == 3
    assert pid in json.loads(shop.stead.well("ps", "--format", "json", running.id))
    assert "sleep 77" in shop.stead.well("ps", running.id)
    os.kill(pid, signal.SIGKILL)


def test_descriptors_are_preserved_on_request_and_no_other_is(
    shop: Workshop, running: Bundle, tmp_path: Path
) -> None:
    script = "ls /proc/self/fd; echo x >&3"
    command = shop.stead.command("exec", "--preserve-fds", "1", running.id, "sh", "-c", script)
    opened = ["sh", "-c", f'exec "$@" 3> {tmp_path}/three 4> {tmp_path}/four', "sh", *command]
    done = subprocess.run(opened, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]  # 4 is the directory that is listed
    assert (tmp_path / "three").read_text() == "x\n"


@pytest.mark.parametrize("number", ["1", "99", "-1", "-3"])
def test_descriptors_that_are_not_open_are_not_preserved(
    shop: Workshop, running: Bundle, number: str
) -> None:
    bundle = shop.bundle("echo ran").write()
    words = ("--preserve-fds", number)
    for said, code in (
        (shop.stead("create", *words, "--bundle", str(bundle.path), bundle.id), 1),
        (shop.stead("exec", *words, running.id, "echo", "ran"), 255),
    ):
        assert (said.code, said.out) == (code, "")
        assert f"cannot preserve {number} descriptors" in said.errors
    assert left(shop, bundle) == []


# ---------------------------------------------------------------- terminals


def test_the_terminals_master_goes_to_the_console_socket(shop: Workshop, tmp_path: Path) -> None:
    bundle = shop.bundle("tty; stty size; read line; echo got $line")
    bundle.process.update(terminal=True, consoleSize={"height": 33, "width": 99})
    path = str(tmp_path / "c.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        bundle.write()
        options = ["--console-socket", path, "--bundle", str(bundle.path)]
        shop.stead.well("create", *options, bundle.id)
        channel, _ = listener.accept()
        with channel:
            _, (master, *_), _, _ = socket.recv_fds(channel, 100, 1)
    shop.stead.well("start", bundle.id)
    text = b""
    os.write(master, b"hello\n")
    while b"got hello" not in text:
        text += os.read(master, 1000)
    os.close(master)
    assert b"/dev/pts/0" in text and b"33 99" in text
    shop.stead.well("delete", "--force", bundle.id)
    said = shop.stead("create", "--bundle", str(bundle.path), bundle.id)
    assert "use --console-socket" in said.errors


def test_run_in_the_foreground_shows_its_terminal_on_ours(shop: Workshop) -> None:
    bundle = shop.bundle("tty; stty size; read line; echo got $line; exit 5")
    bundle.process["terminal"] = True
    bundle.write()
    pid, master = pty.fork()
    if pid == 0:
        os.execv(str(STEAD), shop.stead.command("run", "--bundle", str(bundle.path), bundle.id))
    text = b""
    os.write(master, b"hello\n")
    try:
        while True:
            text += os.read(master, 1000)
    except OSError:
        pass  # EIO: it has ended
    os.close(master)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 5
    assert b"got hello" in text


def test_a_terminal_needs_one_here(shop: Workshop) -> None:
    for oci in shop.runtimes():
        bundle = shop.bundle("sleep 1000")
        bundle.process["terminal"] = True
        assert bundle.run(oci, start_new_session=True).code == 1
        assert oci("state", bundle.id).code == 1


def test_a_terminal_is_found_beside_streams_that_are_none(shop: Workshop) -> None:
    bundle = shop.bundle("stty size; cat")
    bundle.process["terminal"] = True
    bundle.write()
    run = " ".join(shop.stead.command("run", "--bundle", str(bundle.path), bundle.id))
    script = f"stty rows 31 cols 77 < /dev/tty; printf 'a\\n\\004' | {run} > {bundle.path}/out 2>&1; echo $?"
    pid, master = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", script])
    text = b""
    with contextlib.suppress(OSError):  # EIO: it has ended
        while data := os.read(master, 1000):
            text += data
    os.close(master)
    os.waitpid(pid, 0)
    assert text.split() == [b"0"], bundle.output()
    assert "31 77" in bundle.output() and sorted(bundle.output().split()) == ["31", "77", "a", "a"]


# ---------------------------------------------------------------- limits and looks


def test_sizes_of_update_have_units(shop: Workshop, running: Bundle) -> None:
    shop.stead.well("update", "--memory", "64m", running.id)
    assert cgroups.detect().read_limits(running.id, io=False).memory == 64 << 20
    said = shop.stead("update", "--resources", "-", running.id, stdin='{"memory": {"limit": "5m"}}')
    assert "cannot use standard input: resources.memory.limit: a whole number is expected" in said.errors


@pytest.mark.parametrize("text", ["{bad", "{", '{"a" 1}', '{"a": "\n"}', "[1 2]", ""])
def test_what_is_no_json_is_told_in_the_log(
    shop: Workshop, running: Bundle, tmp_path: Path, text: str
) -> None:
    log, broken = tmp_path / "log", shop.stead.root / "broken"
    words = ("--log", str(log), "--log-format", "json")
    said = [shop.stead(*words, "update", "--resources", "-", running.id, stdin=text)]
    broken.mkdir()
    (broken / "state.json").write_text(text)
    try:
        said += [shop.stead(*words, "state", "broken"), shop.stead("list", "--quiet")]
    finally:
        (broken / "state.json").unlink()
        broken.rmdir()
    assert [one.code for one in said] == [1, 1, 0]
    assert running.id in said[2].lines
    assert not any("Traceback" in one.errors for one in said)
    messages = [json.loads(line)["msg"] for line in log.read_text().splitlines()]
    assert messages[0].startswith("cannot read resources from -: ")
    assert messages[1].startswith(f"cannot read {broken}/state.json: ")


def test_signal_0_asks_whether_it_runs(shop: Workshop) -> None:
    for oci in shop.runtimes():
        bundle = shop.bundle("exec sleep 1000")
        bundle.start(oci)
        assert oci("kill", bundle.id, "0").code == 0
        assert oci.state(bundle.id)["status"] == "running"
        oci.well("delete", "--force", bundle.id)


@pytest.mark.parametrize("closed", [">&-", ">/dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
def test_what_cannot_be_said_is_a_failure_without_a_traceback(shop: Workshop, closed: str) -> None:
    for oci in shop.runtimes():
        listed = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", *oci.command("list")],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert listed.returncode == 1
        assert listed.stdout == "" and len(listed.stderr.splitlines()) == (0 if "2>" in closed else 1)


def test_a_container_finds_its_streams_closed_where_ours_are(shop: Workshop, tmp_path: Path) -> None:
    bundle = shop.bundle("echo x && exit 1; cat && exit 2; exit 3").write()
    words = shop.stead.command("run", "--bundle", str(bundle.path), bundle.id)
    assert subprocess.run(["sh", "-c", '"$@" <&- >&-', "sh", *words], timeout=60).returncode == 3


def test_a_document_without_end_is_no_traceback(shop: Workshop) -> None:
    bundle = shop.bundle()
    (bundle.path / "config.json").write_text("[" * 100000)
    said = shop.stead("run", "--bundle", str(bundle.path), bundle.id)
    assert said.code == 1 and "config.json: it is nested too deeply" in said.errors
    assert len(said.errors.splitlines()) == 1


def test_sockets_that_are_no_number_are_named(shop: Workshop) -> None:
    said = shop.bundle().run(shop.stead, env={**os.environ, "LISTEN_FDS": "x"})
    assert said.code == 1 and "LISTEN_FDS=x is no number" in said.errors


def test_limits_change_while_it_runs(shop: Workshop, running: Bundle) -> None:
    host = cgroups.detect()
    change = {"memory": {"limit": 64 << 20}, "pids": {"limit": 44}, "cpu": {"shares": 512, "quota": 30000}}
    shop.stead.well("update", "--resources", "-", running.id, stdin=json.dumps(change))
    limits = host.read_limits(running.id, io=False)
    assert (limits.memory, limits.pids, limits.cpus) == (64 << 20, 44, 0.3)
    shop.stead.well(
        "update", "--memory", str(96 << 20), "--pids-limit", "55", "--cpu-quota", "-1", running.id
    )
    limits = host.read_limits(running.id, io=False)
    assert (limits.memory, limits.pids, limits.cpus) == (96 << 20, 55, 0.0)
    assert (
        "cannot update l3-cache-schema" in shop.stead("update", "--l3-cache-schema", "x", running.id).errors
    )


def test_events_tell_use_and_deaths_for_memory(shop: Workshop) -> None:
    bundle = shop.bundle("sleep 1000")
    bundle.linux["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    bundle.config["mounts"].append(
        {"destination": "/fill", "type": "tmpfs", "source": "tmpfs", "options": ["mode=777"]}
    )
    bundle.start(shop.stead)
    once = json.loads(shop.stead.well("events", "--stats", bundle.id))
    assert once["type"] == "stats" and once["id"] == bundle.id
    assert once["data"]["memory"]["usage"]["limit"] == 16 << 20
    assert once["data"]["pids"]["current"] == 1
    watcher = subprocess.Popen(
        shop.stead.command("events", "--interval", "50ms", bundle.id), stdout=subprocess.PIPE, text=True
    )
    assert watcher.stdout is not None
    assert json.loads(watcher.stdout.readline())["type"] == "stats"
    shop.stead("exec", bundle.id, "dd", "if=/dev/zero", "of=/fill/x", "bs=1M", "count=64")
    kinds = (json.loads(line)["type"] for line in watcher.stdout)
    assert next(kind for kind in kinds if kind == "oom")
    shop.stead.well("delete", "--force", bundle.id)
    assert watcher.wait(10) == 0
    watcher.stdout.close()


def test_a_paused_container_stands_still(shop: Workshop) -> None:
    bundle = shop.bundle("while true; do echo x; sleep 0.01; done")
    bundle.start(shop.stead)
    until(bundle.output)
    shop.stead.well("pause", bundle.id)
    assert shop.stead.state(bundle.id)["status"] == "paused"
    assert "paused container" in shop.stead("exec", bundle.id, "true").errors
    before = bundle.output()
    assert bundle.output() == before
    shop.stead.well("resume", bundle.id)
    until(lambda: bundle.output() != before)
    assert "not paused" in shop.stead("resume", bundle.id).errors
    shop.stead.well("pause", bundle.id)
    shop.stead.well("kill", bundle.id, "KILL")  # a frozen one dies, too
    until(lambda: shop.stead.state(bundle.id)["status"] == "stopped")
    shop.stead.well("delete", bundle.id)


def test_list_shows_what_there_is(shop: Workshop, running: Bundle) -> None:
    rows = json.loads(shop.stead.well("list", "--format", "json"))
    (row,) = [row for row in rows if row["id"] == running.id]
    assert row["status"] == "running"
    assert running.id in shop.stead.well("list", "-q").split()
    head, *lines = shop.stead.well("list").splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert any(line.startswith(running.id) for line in lines)


def test_features_say_what_the_fields_do(shop: Workshop) -> None:
    found = json.loads(shop.stead.well("features"))
    assert found["ociVersionMax"] == "1.3.0"
    assert len(found["hooks"]) == 6
    assert {"user", "time"} <= set(found["linux"]["namespaces"])
    assert {"ridmap", "tmpcopyup", "rro", "nosymfollow"} <= set(found["mountOptions"])


def test_what_goes_wrong_is_in_the_log_as_engines_read_it(shop: Workshop, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    said = shop.stead("--log", str(log), "--log-format", "json", "state", "nowhere")
    assert said.code == 1
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert (line["level"], line["msg"]) == ("error", 'container "nowhere" does not exist')
    assert said.errors == 'container "nowhere" does not exist\n'
    bundle = shop.bundle("true")
    bundle.linux["cgroupsPath"] = "system.slice:ocitest:1"
    assert os.path.isdir("/run/systemd/system") or "use cgroupfs" in bundle.run(Systemd(shop.stead)).errors


def test_the_command_stead_runs_a_bundle_too(shop: Workshop) -> None:
    bundle = shop.bundle("echo ran; exit 4").write()
    stead = [sys.executable, "-c", "from agent.cli.main import main; raise SystemExit(main())", "oci"]
    words = [*stead, "--root", str(shop.stead.root), "run", "--bundle", str(bundle.path), bundle.id]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (4, "ran\n"), done.stderr


class Systemd(Oci):
    """With the manager that asks systemd."""

    def __init__(self, oci: Oci) -> None:
        super().__init__(oci.program, oci.root)

    def command(self, *words: str) -> list[str]:
        return super().command("--systemd-cgroup", *words)


def test_the_interpreter_cannot_be_written_to_from_inside(shop: Workshop) -> None:
    """CVE-2019-5736: a program of the image is /proc/self/exe, which is the runtime's while it starts."""
    bundle = shop.bundle("true")
    pid = bundle.create(shop.stead)
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    with pytest.raises(OSError, match=r"Read-only|Text file busy"):
        os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY))
    shop.stead.well("delete", "--force", bundle.id)
