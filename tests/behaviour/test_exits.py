"""Exit codes and outputs of `run`: what its caller learns of the program and of what could not be run."""

from __future__ import annotations

import pytest

from tests.behaviour.engines import CONFIGURED, IMAGE, Engine

pytestmark = pytest.mark.root


@pytest.mark.alone
def test_run_gives_the_exit_code_of_the_program(engine: Engine) -> None:
    assert engine.sh("exit 7").code == 7


@pytest.mark.alone
def test_run_keeps_standard_output_and_error_apart(engine: Engine) -> None:
    said = engine.sh("echo out; echo err >&2")
    assert (said.code, said.out, said.errors) == (0, "out\n", "err\n")


def test_a_program_that_kills_itself_gives_128_and_the_signal(engine: Engine) -> None:
    assert engine.sh("sh -c 'kill -TERM $$'; exit $?").code == 143
    assert engine.sh("exec sh -c 'trap - TERM; exit 200'").code == 200


def test_a_program_that_is_not_there_gives_127(engine: Engine) -> None:
    assert "not-there" in engine.fails("run", "--rm", "--network", "none", IMAGE, "not-there", code=127)


def test_a_file_that_is_no_program_gives_126(engine: Engine) -> None:
    engine.fails("run", "--rm", "--network", "none", IMAGE, "/etc/passwd", code=126)


def test_an_option_that_does_not_exist_gives_125(engine: Engine) -> None:
    engine.fails("run", "--rm", "--no-such-option", IMAGE, "true", code=125)


def test_a_value_that_is_no_size_gives_125(engine: Engine) -> None:
    engine.fails("run", "--rm", "-m", "much", IMAGE, "true", code=125)


def test_an_image_that_is_not_there_and_must_not_be_pulled_gives_125(engine: Engine) -> None:
    engine.fails("run", "--rm", "--pull", "never", "not/there:1", "true", code=125)


def test_a_network_that_is_not_there_gives_125(engine: Engine) -> None:
    engine.fails("run", "--rm", "--network", "not-there", IMAGE, "true", code=125)


def test_a_name_that_is_taken_gives_125(engine: Engine, name: str) -> None:
    engine.do("create", "--name", name, IMAGE, "true")
    assert name in engine.fails("run", "--name", name, IMAGE, "true", code=125)


def test_a_name_with_a_slash_or_a_space_is_refused(engine: Engine) -> None:
    engine.fails("create", "--name", "a/b", IMAGE, "true")
    engine.fails("create", "--name", "a b", IMAGE, "true")


def test_a_bind_without_an_absolute_target_is_refused(engine: Engine) -> None:
    engine.fails("create", "-v", "/tmp:relative", IMAGE, "true")


def test_input_reaches_the_program_up_to_its_end(engine: Engine) -> None:
    words = ("run", "--rm", "-i", "--network", "none", IMAGE, "sh", "-c", "cat; echo over")
    assert engine.do(*words, stdin="a\nb\n") == "a\nb\nover"


def test_without_i_the_program_has_no_input(engine: Engine) -> None:
    words = ("run", "--rm", "--network", "none", IMAGE, "sh", "-c", "cat; echo over")
    assert engine.do(*words, stdin="a\nb\n") == "over"


def test_output_without_a_last_line_break_comes_as_it_is(engine: Engine) -> None:
    assert engine.sh("printf 'a\\n\\nb'").out == "a\n\nb"


def test_bytes_of_binary_output_are_not_touched(engine: Engine) -> None:
    assert engine.sh("printf '\\r\\n\\t\\001x\\n'").out == "\r\n\t\001x\n"


def test_much_output_arrives_whole_and_in_order(engine: Engine) -> None:
    assert engine.sh("seq 1 20000").out == "".join(f"{number}\n" for number in range(1, 20001))


def test_arguments_are_passed_as_they_are(engine: Engine) -> None:
    words = ("run", "--rm", "--network", "none", IMAGE, "printf", "[%s]", "a b", "", "*", "$HOME", "é", "-x")
    assert engine.do(*words) == "[a b][][*][$HOME][é][-x]"


def test_an_image_without_a_command_needs_one(engine: Engine) -> None:
    engine.fails("run", "--rm", IMAGE)


def test_the_commands_of_the_image_are_arguments_of_its_entrypoint(engine: Engine) -> None:
    assert engine.do("run", "--rm", "--network", "none", CONFIGURED) == "entry word"


def test_a_command_takes_the_place_of_the_images_and_not_of_its_entrypoint(engine: Engine) -> None:
    assert engine.do("run", "--rm", "--network", "none", CONFIGURED, "my", "words") == "entry my words"


def test_an_entrypoint_takes_away_the_images_command(engine: Engine) -> None:
    words = ("run", "--rm", "--network", "none", "--entrypoint", "echo", CONFIGURED)
    assert engine.do(*words) == ""
    assert engine.do(*words, "mine") == "mine"


def test_an_empty_entrypoint_leaves_the_command_alone(engine: Engine) -> None:
    assert engine.do("run", "--rm", "--network", "none", "--entrypoint", "", CONFIGURED, "echo", "x") == "x"
