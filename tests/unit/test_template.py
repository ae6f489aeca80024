"""Templates of `--format`: what they print, and where a mistake is said to be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import formatting
from agent.cli.main import Problem
from agent.cli.template import Open, Template, TemplateError

DATA = {
    "Name": "web",
    "Size": 3,
    "Ratio": 0.5,
    "Ok": True,
    "Tags": ["a:1", "b:2"],
    "None": None,
    "Config": {"Env": ["A=b"], "Labels": Open({"x": "1", "a.b": "2"}), "Cmd": None},
    "Empty": [],
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain {text}", "plain {text}"),
        ("", ""),
        ("{{.Name}}:{{.Size}}", "web:3"),
        ("{{ .Name }}", "web"),
        ("{{.Ok}} {{.Ratio}} {{.Tags}} {{.None}}", "true 0.5 [a:1 b:2] <no value>"),
        ("{{.Config.Labels}}", "map[a.b:2 x:1]"),
        ('{{index .Config.Labels "a.b"}}', "2"),
        ("{{.Config.Labels.missing}}", "<no value>"),
        ("{{index .Tags 1}}", "b:2"),
        ("{{json .Tags}} {{json .Name}} {{json .}}", None),
        ("{{upper .Name}}{{lower `ABC`}}{{title .Name}}", "WEBabcWeb"),
        ("{{.Name | upper | lower}}", "web"),
        ("{{truncate .Name 2}}{{.Name | printf `%5s|%-5s|` `x`}}", "we    x|web  |"),
        ("{{join .Tags `, `}}", "a:1, b:2"),
        ("{{split `a/b` `/`}} {{len (split `a/b/c` `/`)}}", "[a b] 3"),
        ("{{pad .Name 1 2}}|", " web  |"),
        ("{{println .Name}}x", "web\nx"),
        ("{{println `a` 1}}", "a 1\n"),
        ("{{print 1 2 `x` 3}}", "1 2x3"),
        ("{{printf `%d %q %v %t %x %05d %.2f %%` 7 `q` .Tags true 255 42 1.5}}", None),
        ("{{if .Ok}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Empty}}yes{{else if .Name}}{{.Name}}{{else}}no{{end}}", "web"),
        ("{{if and .Ok (eq .Size 3)}}both{{end}}{{or .None .Name}}{{not .Ok}}", "bothwebfalse"),
        ("{{if or (lt .Size 3) (ge .Size 3)}}x{{end}}", "x"),
        ("{{range .Tags}}[{{.}}]{{end}}", "[a:1][b:2]"),
        ("{{range $i, $t := .Tags}}{{if $i}}, {{end}}{{$t}}{{end}}", "a:1, b:2"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a.b=2;x=1;"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{with .Config}}{{.Env}}{{$.Name}}{{end}}", "[A=b]web"),
        ("{{with $c := .Config.Cmd}}x{{else}}no command{{end}}", "no command"),
        ("{{$x := .Name}}{{range .Tags}}{{$x}}{{$x = .}}{{end}}{{$x}}", "weba:1b:2"),
        ("a  {{- .Name -}}  b {{- /* nothing */ -}} c", "awebbc"),
        ("{{/* nothing */}}x", "x"),
        ("{{(index .Tags 0)}} {{(.Config).Env}}", "a:1 [A=b]"),
        (r"{{.Name}}\t{{.Size}}\n", "web\t3\n"),
        (r'{{"a\tb\"c"}}', 'a\tb"c'),
        ("{{slice .Name 1 2}}{{slice .Name 1}}", "eeb"),
        ("{{eq .Name `x` `web`}} {{ne 1 2}}", "true true"),
        ("{{range 3}}{{.}}{{end}}", "012"),
    ],
)
def test_a_template_prints(text: str, wanted: str | None) -> None:
    found = Template.read(text).render(DATA)
    if wanted is None:
        assert found in (
            '["a:1","b:2"] "web" {"Name":"web","Size":3,"Ratio":0.5,"Ok":true,"Tags":["a:1","b:2"],'
            '"None":null,"Config":{"Env":["A=b"],"Labels":{"x":"1","a.b":"2"},"Cmd":null},"Empty":[]}',
            '7 "q" [a:1 b:2] true ff 00042 1.50 %',
        )
    else:
        assert found == wanted


@pytest.mark.parametrize(
    ("text", "place", "wrong"),
    [
        ("{{.Name", "1:1", "not closed"),
        ("a\nb {{ .Nope }}", "2:6", "no field .Nope; there are .Name, .Size"),
        ("{{.Name.More}}", "1:8", "no field .More of str"),
        ("{{.None.More}}", "1:8", "no field .More of nothing"),
        ("{{foo .Name}}", "1:3", "no function foo; there are and, eq"),
        ("{{.Name | foo}}", "1:11", "no function foo"),
        ("{{if .Ok}}x", "1:1", "a block is not closed"),
        ("{{end}}", "1:3", "end has nothing to belong to"),
        ("{{else}}", "1:3", "else has nothing to belong to"),
        ("{{}}", "1:1", "an action is empty"),
        ("{{.Name .Size}}", "1:9", "only a function has arguments"),
        ("{{.Name | .Size}}", "1:11", "only a function can take"),
        ("{{upper}}", "1:3", "upper: takes 1 arguments, not 0"),
        ("{{upper .Size}}", "1:3", "upper: needs a text, not 3"),
        ("{{$x}}", "1:3", "there is no variable $x"),
        ("{{$x = 1}}", "1:3", "make it with :="),
        ("{{index .Tags 7}}", "1:3", "there is no item 7 of 2"),
        ("{{range .Name}}{{end}}", "1:3", "range needs a list or a mapping"),
        ("{{(.Name}}", "1:3", "a parenthesis is not closed"),
        ("{{.Name ^}}", "1:9", "cannot read '^}}'"),
        ("{{if .Ok}}{{else}}{{else}}{{end}}", "1:21", "else has nothing"),
        ("{{printf `%d` .Name}}", "1:3", "printf: needs a number, not web"),
        ("{{pad .Name 99999 0}}", "1:3", "more than 10000 blanks"),
        ("{{lt .Name 3}}", "1:3", "lt: "),
        ("{{|}}", "1:3", "a value is missing"),
        ("{{.Name}}{{if}}{{end}}", "1:10", "a value is missing"),
    ],
)
def test_a_mistake_in_a_template_has_a_place(text: str, place: str, wrong: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.read(text).render(DATA)
    assert str(caught.value).startswith(f"{place}: ") and wrong in str(caught.value)


@given(st.text(alphabet='{}.|$`" \n-ab()1,:=/*%', max_size=40))
def test_any_text_is_rendered_or_refused_with_a_place(text: str) -> None:
    try:
        Template.read(text).render({"a": 1, "b": ["x"]})
    except TemplateError as error:
        line, column = error.place
        assert 1 <= line <= text.count("\n") + 1 and 1 <= column <= len(text) + 1


ROWS = [{"ID": "1", "Tag": "a", "Size": "10MB"}, {"ID": "22", "Tag": "bbbbbbbbbbbb", "Size": "1B"}]
HEADS = {"ID": "IMAGE ID", "Tag": "TAG", "Size": "SIZE"}


@pytest.mark.parametrize(
    ("format", "wanted"),
    [
        ("", ["TAG            SIZE", "a              10MB", "bbbbbbbbbbbb   1B"]),
        ("table", ["TAG            SIZE", "a              10MB", "bbbbbbbbbbbb   1B"]),
        (r"table {{.ID}}\t{{upper .Tag}}", ["IMAGE ID   TAG", "1          A", "22         BBBBBBBBBBBB"]),
        ("{{.ID}}: {{.Size}}", ["1: 10MB", "22: 1B"]),
        ("json", ['{"ID":"1","Tag":"a","Size":"10MB"}', '{"ID":"22","Tag":"bbbbbbbbbbbb","Size":"1B"}']),
    ],
)
def test_a_list_is_a_table_a_template_a_row_or_json(format: str, wanted: list[str]) -> None:
    assert list(formatting.lines(ROWS, format, HEADS, ("Tag", "Size"))) == wanted


def test_a_table_shows_what_a_terminal_would_obey() -> None:
    rows = [{"Tag": "\x1b[2Ja\nb", "Size": "1"}]
    _, line = formatting.lines(rows, "", HEADS, ("Tag", "Size"))
    assert line.startswith(r"\x1b[2Ja\nb")


def test_a_wrong_format_is_shown_with_its_place() -> None:
    with pytest.raises(Problem, match=r"cannot read format '\{\{.Nope}}': 1:3: there is no field .Nope"):
        list(formatting.lines(ROWS, "{{.Nope}}", HEADS, ("Tag",)))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1023, "1.02kB"),
        (4_261_502, "4.26MB"),
        (123_456_789, "123MB"),
        (999_600, "1MB"),
        (10**12, "1TB"),
    ],
)
def test_sizes_have_three_digits_and_a_decimal_unit(number: int, text: str) -> None:
    assert formatting.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "Less than a second"),
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (3 * 86400, "3 days"),
        (20 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_times_ago_are_said_as_docker_says_them(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text
