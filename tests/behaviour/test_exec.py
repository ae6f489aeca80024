"""Programs in a running container: one container for all questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour.engines import CONFIGURED, IMAGE, Engine, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def host(engine: Engine) -> Iterator[str]:
    """A container of the configured image: user web, a working directory, two variables, one of its own."""
    name = "exec-host"
    words = ("--network", "none", "-e", "OWN=mine", "--hostname", "box", "--entrypoint", "sleep")
    engine.do("run", "-d", "--name", name, *words, CONFIGURED, "1000")
    yield name
    engine.forget(name)


def test_exec_gives_the_exit_code_and_both_outputs_apart(engine: Engine, host: str) -> None:
    said = engine.call("exec", host, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (said.code, said.out, said.errors) == (7, "out\n", "err\n")


def test_exec_has_the_containers_environment_user_directory_and_name(engine: Engine, host: str) -> None:
    script = "echo $FROM_IMAGE $OTHER $OWN; id -u; pwd; hostname"
    assert engine.do("exec", host, "sh", "-c", script).split() == [
        *("image", "kept", "mine", "1000", "/srv/work", "box")
    ]


def test_exec_may_have_another_environment_user_and_directory(engine: Engine, host: str) -> None:
    options = ("-e", "OWN=other", "-e", "NEW=a b", "-u", "0", "-w", "/tmp")
    script = "echo $OWN/$NEW; id -u; pwd"
    assert engine.do("exec", *options, host, "sh", "-c", script) == "other/a b\n0\n/tmp"


def test_exec_may_have_another_group(engine: Engine, host: str) -> None:
    assert engine.do("exec", "-u", "4711:extra", host, "sh", "-c", "echo $(id -u) $(id -g)") == "4711 2000"


def test_exec_reads_input_with_i_only(engine: Engine, host: str) -> None:
    assert engine.do("exec", "-i", host, "cat", stdin="a\nb") == "a\nb"
    assert engine.do("exec", host, "cat", stdin="a\nb") == ""


def test_a_detached_exec_works(engine: Engine, host: str) -> None:
    engine.do("exec", "-d", host, "sh", "-c", "echo done > /tmp/detached")
    until(lambda: engine.call("exec", host, "cat", "/tmp/detached").out == "done\n")


@pytest.mark.differs("exec` of a program that is not there gives 127", "docker")
def test_exec_of_what_is_not_there_gives_127(engine: Engine, host: str) -> None:
    assert engine.call("exec", host, "not-there").code == 127


def test_exec_of_a_file_that_is_no_program_gives_126(engine: Engine, host: str) -> None:
    assert engine.call("exec", host, "/etc/passwd").code == 126


def test_an_exec_that_is_killed_gives_128_and_the_signal(engine: Engine, host: str) -> None:
    assert engine.call("exec", host, "sh", "-c", "kill -KILL $$").code == 137


def test_exec_passes_arguments_as_they_are(engine: Engine, host: str) -> None:
    assert engine.do("exec", host, "printf", "[%s]", "a b", "", "*", "-x") == "[a b][][*][-x]"


def test_exec_takes_variables_from_a_file(engine: Engine, host: str, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# none\nFILED=yes\n")
    assert engine.do("exec", "--env-file", str(tmp_path / "env"), host, "sh", "-c", "echo $FILED") == "yes"


@pytest.mark.differs("it keeps the container's", "podman")
def test_a_variable_that_the_caller_does_not_have_is_not_there_either(engine: Engine, host: str) -> None:
    assert engine.do("exec", "-e", "OWN", host, "sh", "-c", "echo ${OWN-unset}") == "unset"


def test_a_command_may_begin_with_two_dashes(engine: Engine, host: str) -> None:
    assert engine.do("exec", "--", host, "echo", "--") == "--"
    assert engine.call("exec", host, "--", "true").code in (126, 127)


def test_a_terminal_needs_none_here_unless_there_is_input(engine: Engine, host: str) -> None:
    assert "/dev/pts/" in engine.do("exec", "-t", host, "tty")


@pytest.mark.differs("it goes on with what it has", "podman")
def test_a_terminal_with_input_needs_one_here(engine: Engine, host: str) -> None:
    engine.fails("exec", "-it", host, "true", code=1)
    engine.fails("run", "--rm", "-it", IMAGE, "true", code=1)


@pytest.mark.differs("it has 126 and 127 for some of them", "podman")
def test_what_keeps_a_program_from_its_start_gives_126_and_1_without_waiting(
    engine: Engine, host: str
) -> None:
    for words in (("-u", "not-there", host, "true"), ("-w", "/not/there", host, "true"), (host, "")):
        engine.fails("exec", *words, code=126)
    engine.fails("exec", "-d", host, "not-there", code=1)


def test_exec_sees_the_containers_processes_and_is_none_of_them_afterwards(engine: Engine, host: str) -> None:
    lines = engine.do("exec", host, "ps", "-o", "pid,args").splitlines()
    assert [line for line in lines if line.split() == ["1", "sleep", "1000"]]
    assert "ps" not in engine.do("top", host)


def test_exec_has_the_containers_walls(engine: Engine, host: str) -> None:
    script = "sed -n 's/^CapBnd:[[:space:]]*//p;s/^Seccomp:[[:space:]]*//p' /proc/self/status"
    inside = engine.do("exec", "-u", "0", host, "sh", "-c", script.replace("self", "1"))
    assert engine.do("exec", "-u", "0", host, "sh", "-c", script) == inside


def test_a_privileged_exec_has_more_capabilities(engine: Engine, host: str) -> None:
    script = "sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status"
    usual = engine.do("exec", "-u", "0", host, "sh", "-c", script)
    more = engine.call("exec", "--privileged", "-u", "0", host, "sh", "-c", script)
    assert more.code != 0 or int(more.out, 16) > int(usual, 16)


def test_what_exec_writes_is_not_in_the_containers_log(engine: Engine, host: str) -> None:
    engine.do("exec", host, "echo", "exec-only")
    assert "exec-only" not in engine.do("logs", host)


def test_exec_writes_what_the_next_one_reads(engine: Engine, host: str) -> None:
    engine.do("exec", host, "sh", "-c", "echo text > /tmp/shared")
    assert engine.do("exec", host, "cat", "/tmp/shared") == "text"


def test_exec_with_a_directory_that_is_not_there_fails(engine: Engine, host: str) -> None:
    engine.fails("exec", "-w", "/not/there", host, "pwd")


def test_exec_needs_a_command(engine: Engine, host: str) -> None:
    engine.fails("exec", host)


def test_top_lists_the_processes_with_a_heading(engine: Engine, host: str) -> None:
    heading, *lines = engine.do("top", host).splitlines()
    assert "PID" in heading.split() and len(lines) == 1 and lines[0].split()[-2:] == ["sleep", "1000"]
