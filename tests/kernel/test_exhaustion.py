"""No inotify instances and no watches are left: all goes on by looking, and by hearing once there are again.

The limits are those of a user namespace of its own (namespaces(7), /proc/sys/user): the machine's stay.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux"),
]

BEGIN = """
import logging, sys, threading, time
from pathlib import Path
logging.basicConfig(stream=sys.stdout, format="%(message)s")
where = Path(sys.argv[1])

def limit(instances, watches):
    Path("/proc/sys/user/max_inotify_instances").write_text(str(instances))
    Path("/proc/sys/user/max_inotify_watches").write_text(str(watches))

limit(int(sys.argv[2]), int(sys.argv[3]))
"""

#: no instance; no watch
NONE = pytest.mark.parametrize("limits", [("0", "100"), ("9", "0")], ids=["instances", "watches"])


def alone(program: str, where: Path, limits: tuple[str, str]) -> str:
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", BEGIN + program]
    done = subprocess.run([*command, str(where), *limits], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@NONE
def test_events_are_followed_without_inotify_and_with_it_later(
    tmp_path: Path, limits: tuple[str, str]
) -> None:
    program = """
from runtime import events
began = time.monotonic()
heard = events.follow(where, replay=False, left=lambda: 20 + began - time.monotonic())
threading.Timer(0.5, events.tell, (where, "volume", "create", "v", "v")).start()
print(next(heard).action, time.monotonic() - began < 10)
limit(9, 100)
threading.Timer(0.5, events.tell, (where, "volume", "destroy", "v", "v")).start()
print(next(heard).action)
print(any("inotify" in str(item.resolve()) for item in Path("/proc/self/fd").iterdir()))
"""
    (tmp_path / "events").mkdir()
    assert alone(program, tmp_path, limits).split() == ["create", "True", "destroy", "True"]


@NONE
def test_a_log_is_followed_without_inotify_and_with_it_later(tmp_path: Path, limits: tuple[str, str]) -> None:
    program = """
from runtime.logs import LOOK_AGAIN, _Watch
watch = _Watch(where, -1)
watch.wait()
print(watch._watched == set())
limit(9, 100)
began = time.monotonic()
watch.wait()  # it says nothing of what came before: there is another look at once
print(where in watch._watched, time.monotonic() - began < LOOK_AGAIN)
"""
    assert alone(program, tmp_path, limits).split() == ["True", "True", "True"]


def test_a_log_whose_end_nobody_can_hear_of_is_looked_at_until_somebody_can(tmp_path: Path) -> None:
    program = """
from runtime.logs import _Watch
watch = _Watch(where, -1)
print(len(watch._watched))
limit(9, 100)
watch.wait()
print(len(watch._watched))
"""
    assert alone(program, tmp_path, ("9", "1")).split() == ["1", "2"]


@NONE
def test_a_directory_is_a_source_without_inotify_and_says_so(tmp_path: Path, limits: tuple[str, str]) -> None:
    program = """
import asyncio
from agent.sources.directory import DirectorySource

async def main():
    stop, spec = asyncio.Event(), where / "a.toml"
    spec.write_text("a")
    found = DirectorySource(where).revisions(stop)
    async def following(text):
        while (await asyncio.wait_for(anext(found), 15)).files["a.toml"].decode() != text:
            pass
        print("took", text)
    await following("a")
    spec.write_text("ab")
    await following("ab")
    limit(9, 100)
    spec.write_text("abc")
    await following("abc")
    threading.Timer(5.0, spec.write_text, ("abcd",)).start()
    await following("abcd")
    await found.aclose()

asyncio.run(main())
"""
    said = alone(program, tmp_path, limits).splitlines()
    name = "max_user_instances" if limits[0] == "0" else "max_user_watches"
    assert said[0].startswith(f"cannot watch {tmp_path}: inotify_") and name in said[0]
    assert said[0].endswith("; it is read every 2 s instead")
    took = [line for line in said if line.startswith("took")]
    assert took == ["took a", "took ab", "took abc", "took abcd"]
    assert f"{tmp_path} is watched again" in said


def test_a_directory_that_has_gone_is_not_said_to_be_watched_again(tmp_path: Path) -> None:
    program = """
from agent.sources.directory import DirectorySource
source = DirectorySource(where)
print(source._lacks(str(where)), source._lacks(str(where / "gone")))
limit(9, 100)
print(source._lacks(str(where / "gone")), source._lacks(str(where)))
"""
    said = alone(program, tmp_path, ("9", "0")).splitlines()
    assert "; it is read every" in said[0]
    assert said[1:3] == ["True True", f"{tmp_path} is watched again"]
    assert said[3:] == ["True False"]


def test_names_are_known_of_containers_that_nobody_can_watch(tmp_path: Path) -> None:
    program = """
from ipaddress import ip_network
from runtime.net.dns import documents
from runtime.net.dns.watch import Watch
from runtime.net.dns.zone import Endpoint, Member, Network
from runtime.paths import write_atomically

def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data, durable=False)

def start(number, phase):
    live, id = where / "containers" / f"{number:016}", f"{number:016}"
    member = Member(id, f"shop/c{number}", (Endpoint("n", (f"10.0.0.{number}",), ()),), "", ())
    put(live / documents.MEMBER, documents.encode_member(member))
    put(live / documents.STATE, b'{"phase": "%s"}' % phase)

(where / "containers").mkdir()
network = Network("n", ("10.0.0.1",), (ip_network("10.0.0.0/24"),), False, "br0")
put(where / documents.DIRECTORY / documents.NETWORKS, documents.encode_networks([network]))
for number in (2, 3, 4, 5):
    start(number, b"running")
watch = Watch(str(where))
print(len(watch.zone), watch.gone)
start(6, b"running")
time.sleep(0.2)  # between two looks
print(watch.drain(), len(watch.zone))
start(8, b"running")
print(watch.drain(), len(watch.zone), watch.drain(whole=True), len(watch.zone))
(where / "containers" / f"{8:016}" / documents.MEMBER).unlink()
(where / "containers" / f"{2:016}" / documents.MEMBER).unlink()
time.sleep(0.2)
print(watch.drain(), len(watch.zone))
limit(9, 100)
time.sleep(0.2)
print(watch.drain(), len(watch.zone))
time.sleep(0.2)
print(watch.drain())
start(7, b"running")
print(watch.drain(), len(watch.zone))
"""
    for watches, new in (("4", "True 6 True 6"), ("0", "False 5 True 6")):
        wanted = ["4 False", "True 5", new, "True 4", "True 4", "False", "True 5"]
        assert alone(program, tmp_path, ("9", watches)).splitlines() == wanted
        shutil.rmtree(tmp_path / "containers")


def test_who_cannot_go_on_without_inotify_says_which_limit_it_is(tmp_path: Path) -> None:
    program = """
from runtime.linux import inotify
try:
    inotify.add_watch(inotify.open_inotify(), str(where), inotify.IN_CREATE)
except OSError as error:
    print(error)
"""
    assert "fs.inotify.max_user_instances" in alone(program, tmp_path, ("0", "0"))
    assert "fs.inotify.max_user_watches" in alone(program, tmp_path, ("1", "0"))
