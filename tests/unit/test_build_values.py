"""Values behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import pickle

import pytest

from runtime.build.values import Value, replace


class Point(Value):
    x: int
    y: int = 2


class Named(Point, kw_only=True):
    name: str
    tags: tuple[str, ...] = ()


def test_fields_are_given_by_position_or_name_and_have_defaults() -> None:
    assert (Point(1).x, Point(1).y, Point(y=3, x=4).y) == (1, 2, 3)
    named = Named(1, name="a")
    assert (named.x, named.y, named.name, named.tags) == (1, 2, "a", ())


@pytest.mark.parametrize(
    ("given", "names"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 3}), ((), {"y": 1})], ids=str
)
def test_a_missing_or_unknown_field_is_an_error(given: tuple[int, ...], names: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Point has the fields"):
        Point(*given, **names)


def test_a_field_that_is_given_by_name_only_takes_no_position() -> None:
    with pytest.raises(TypeError):
        Named(1, 2, "a")  # type: ignore[misc]


def test_nothing_can_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match=r"Point\.x cannot be changed"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del point.x
    with pytest.raises(AttributeError):
        point.z = 2  # type: ignore[attr-defined]
    assert point == Point(1)


def test_equal_are_the_same_class_and_fields_whatever_their_order() -> None:
    assert Point(1, 2) == Point(y=2, x=1) and hash(Point(1, 2)) == hash(Point(y=2, x=1))
    assert Point(1) != Point(2) and Point(1) != Named(1, name="") and Point(1) != (1, 2)
    assert len({Point(1), Point(1), Point(2)}) == 2
    with pytest.raises(TypeError):
        hash(Point([]))  # type: ignore[arg-type]


def test_they_sort_by_their_fields() -> None:
    assert sorted([Point(2, 1), Point(1, 3), Point(y=1, x=1)]) == [Point(1, 1), Point(1, 3), Point(2, 1)]


def test_a_copy_has_other_fields_and_the_original_its_own() -> None:
    point = Named(1, name="a")
    assert replace(point, y=5, name="b") == Named(1, 5, name="b")
    assert point == Named(1, name="a")
    with pytest.raises(TypeError):
        replace(point, z=1)


def test_they_print_match_and_travel() -> None:
    assert repr(Named(1, name="a")) == "Named(x=1, y=2, name='a', tags=())"
    match Named(1, name="a"):
        case Named(x=1, name=name):
            assert name == "a"
        case _:
            raise AssertionError
    assert copy.deepcopy(Point(1)) == pickle.loads(pickle.dumps(Point(1))) == Point(1)
