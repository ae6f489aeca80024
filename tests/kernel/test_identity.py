"""Who a container's program is, where it starts and what it finds in its environment. Needs root."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runtime.bundle import DEFAULT_PATH
from runtime.faults import Fault
from tests.kernel.engine_box import Engine, engine

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("identity")) as made:
        yield made


@pytest.mark.parametrize(
    ("user", "more", "expected"),
    [
        ("", (), "0 0 0 /root"),
        ("web", (), "1000 1000 1000,2000,2001 /home/web"),
        ("1000", (), "1000 1000 1000,2000,2001 /home/web"),
        ("web:third", (), "1000 2002 2002 /home/web"),
        ("web:77", (), "1000 77 77 /home/web"),
        ("4321", (), "4321 0 0 /"),
        ("4321:8765", (), "4321 8765 8765 /"),
        ("web", ("third", "99"), "1000 1000 99,1000,2000,2001,2002 /home/web"),
        ("web:web", ("extra",), "1000 1000 1000,2000 /home/web"),
    ],
)
def test_a_program_runs_as_the_user_asked_for(box: Engine, user: str, more: tuple, expected: str) -> None:
    script = "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n') $HOME"
    uid, gid, *groups, home = box.run(script, user=user, group_add=more).text.split()
    found = f"{uid} {gid} {','.join(map(str, sorted({int(group) for group in groups})))} {home}"
    assert found == expected


def test_a_name_that_the_image_does_not_know_is_refused(box: Engine) -> None:
    for user in ("nobody", "web:nogroup"):
        with pytest.raises(Fault, match="the image's /etc has no such"):
            box.start("true", user=user)


def test_another_user_may_enter_the_root_and_use_its_streams_by_name(box: Engine) -> None:
    script = "ls / >/dev/null && echo out >/dev/stdout; echo err >/dev/stderr; touch /tmp/x ~/x; touch /etc/x"
    result = box.run(script, user="web", working_dir="/home/web")
    assert result.text == "out\n"
    assert result.errors.splitlines()[0] == "err"
    assert result.errors.splitlines()[1:] == ["touch: /etc/x: Permission denied"]
    assert box.run("echo out >/dev/stdout", user="4321:8765").text == "out\n"


def test_the_root_keeps_what_a_container_makes_of_it(box: Engine) -> None:
    name = box.start("stat -c %a /; chmod 711 /")
    box.result(name)
    box.runtime.stop_container(name)
    box.runtime.start_container(name)
    box.result(name)
    assert box.output(name) == "755\n711\n"
    box.runtime.remove_container(name)


def test_a_missing_working_directory_is_made(box: Engine) -> None:
    result = box.run("pwd; stat -c '%u %a' . .. ../..", working_dir="/srv/deep/er", user="web")
    assert result.lines == ["/srv/deep/er", *["0 755"] * 3]
    with pytest.raises(Fault, match="working directory: not a directory"):
        box.start("pwd", working_dir="/etc/passwd/x")


def test_the_environment_is_complete_and_the_users_wins(box: Engine) -> None:
    lines = box.run("env", environment={"A": "1", "EMPTY": "", "LONG": "x y=z"}, hostname="own").lines
    found = dict(line.split("=", 1) for line in lines)
    found.pop("SHLVL", None)
    expected = {
        "PATH": DEFAULT_PATH,
        "HOSTNAME": "own",
        "HOME": "/root",
        "A": "1",
        "EMPTY": "",
        "LONG": "x y=z",
    }
    assert {key: found[key] for key in expected} == expected
    assert found.keys() - expected.keys() <= {"PWD"}
    assert "HOME=/mine" in box.run("env", environment={"HOME": "/mine"}).lines


def test_nothing_of_the_agents_own_state_is_inherited(box: Engine) -> None:
    shown = (
        "grep -E 'Sig(Blk|Ign)|Umask' /proc/self/status; ps -o sid= | head -n 1; cat /proc/self/oom_score_adj"
    )
    values = box.run(shown).text.split()
    assert "0022" in values
    assert values[values.index("SigBlk:") + 1] == values[values.index("SigIgn:") + 1] == "0" * 16
    assert values[-1] == "0"


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (("nothing",), 127, "no such file in PATH"),
        (("/bin/nothing",), 127, "no such file"),
        (("/etc",), 126, "permission denied"),
        (("/etc/passwd",), 126, "permission denied"),
        (("/home/web/script",), 127, "interpreter"),
        (("/home/web/garbage",), 126, "exec format error"),
    ],
)
def test_what_cannot_be_run_is_told_apart(box: Engine, command: tuple, code: int, text: str) -> None:
    name = box.start("sleep 1000")
    home = box.paths.rootfs(box.id(name)) / "home/web"
    (home / "script").write_text("#!/no/such/interpreter\n")
    (home / "garbage").write_bytes(b"\x00\x01\x02")
    for file in home.iterdir():
        os.chmod(file, 0o755)
    with pytest.raises(Exception, match=text) as caught:
        box.exec(name, *command, "x")
    assert getattr(caught.value, "exit_code", None) == code
    box.runtime.remove_container(name)
    if "home" not in command[0]:
        with pytest.raises(Fault, match=rf"{text}.*\(exit code {code}\)"):
            box.start(*command, "x")
