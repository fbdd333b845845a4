from __future__ import annotations

import ast
import keyword
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.codegen.source import identifiers, literal, prose, source

texts = st.text() | st.text(alphabet="'\"\\\n{}%#a")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts, lambda items: st.lists(items).map(tuple)
)


@dataclass(frozen=True)
class Pair:
    left: object
    right: object


@given(values)
def test_a_literal_evaluates_to_its_value(value: object) -> None:
    assert ast.literal_eval(literal(value)) == value


@given(values, st.integers(0, 90))
def test_source_evaluates_to_its_value_however_little_room_there_is(
    value: object, indent: int
) -> None:
    text = source("prefix = ", value, indent)
    assert ast.literal_eval(text.removeprefix("prefix = ")) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", '"plain"'),
        ("it's", '"it\'s"'),
        ('say "a"', "'say \"a\"'"),
        ("\\'", '"\\\\\'"'),
        ("größe", '"größe"'),
        ((), "()"),
        ((1,), "(1,)"),
        ((("a",), 2), '(("a",), 2)'),
        (Pair((1, 2), None), "Pair(left=(1, 2), right=None)"),
    ],
)
def test_literals_look_as_a_formatter_would_have_them(value: object, expected: str) -> None:
    assert literal(value) == expected


def test_what_does_not_fit_is_spread_over_lines() -> None:
    value = Pair(("a" * 40, "b" * 40), (Pair(1, 2),))
    assert source("x = ", value) == (
        "x = Pair(\n"
        "    left=(\n"
        f'        "{"a" * 40}",\n'
        f'        "{"b" * 40}",\n'
        "    ),\n"
        "    right=(Pair(left=1, right=2),),\n"
        ")"
    )


@pytest.mark.parametrize(("length", "lines"), [(80, 1), (81, 3)])
def test_a_line_holds_88_columns_with_a_comma_after_the_value(length: int, lines: int) -> None:
    text = source("a=", ("x" * length,))
    assert len(text.splitlines()) == lines


@given(texts)
def test_prose_stays_in_its_docstring(text: str) -> None:
    (statement,) = ast.parse(f'"""{prose(text)} and more."""').body
    assert isinstance(statement, ast.Expr)
    assert ast.literal_eval(statement.value) == repr(text)[1:-1] + " and more."
    assert "\n" not in prose(text)


@given(st.lists(texts | st.sampled_from(["plan", "a b", "a_b", "a_b_1", "class", "2nd", "_"])))
def test_identifiers_are_distinct_public_and_free(names: list[str]) -> None:
    reserved = frozenset(("plan", "self"))
    found = list(identifiers(names, reserved))
    assert len(set(found)) == len(names) == len(found)
    for identifier in found:
        assert identifier.isidentifier()
        assert not keyword.iskeyword(identifier)
        assert not identifier.startswith("_")
        assert identifier not in reserved


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("image logits", "image logits"),
        ("x:0", "x_0"),
        ("class None plan", "class_ None_ plan_"),
        ("2nd", "tensor_2nd"),
        ("größe", "gr__e"),
        ("名", "tensor"),
        ("a.b a/b a_b_1", "a_b a_b_1 a_b_1_1"),
    ],
)
def test_identifiers_are_alike(names: str, expected: str) -> None:
    found = identifiers(names.split(), frozenset(["plan"]))
    assert list(found) == expected.split()
