"""YAML files: the values that a text has, where a mistake stands, and that what is written is read as the same."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackelgrid.scenarios.yaml_file import find_line, parse, spell


def multiply_aliases(by: int, times: int) -> str:
    """Write lists of aliases to lists of aliases, `by` in each."""
    lists = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * by)}]" for n in range(1, times + 1)]
    return "\n".join([f"a0: &a0 [{', '.join('1' * by)}]", *lists])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9" * 5000, "9" * 5000),
        ("1:30", "1:30"),
        ("1e-3", 1e-3),
        ("-.5", -0.5),
        ("007", 7),
        ("0o7", "0o7"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("2016-06-14", date(2016, 6, 14)),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_scalar_has_the_type_that_yaml_1_2_gives_it(text: str, value: object) -> None:
    found = parse(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("base: &base {a: 1, b: 2}\nhome: {<<: *base, a: 3}", {"a": 3, "b": 2}),
        ("home:\n  <<: [{a: 1}, {a: 2, b: 4}]\n  c: 5", {"a": 1, "b": 4, "c": 5}),
        ("base: &base {<<: {a: 1}, b: 2}\nhome: {<<: *base, c: 3}", {"a": 1, "b": 2, "c": 3}),
    ],
)
def test_merge_key_fills_in_what_the_mapping_does_not_give(text: str, value: dict[str, int]) -> None:
    assert parse(text)["home"] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n'a': 2", "line 2, column 1: the key 'a' is there twice, first in line 1; remove one"),
        ("x: {<<: {a: 1}, b: 1, b: 2}", "line 1, column 23: the key 'b' is there twice, first in line 1; remove one"),
        ("x: &b {}\ny: {<<: *b, <<: *b}", "line 2, column 13: the key '<<' is there twice, first in line 2"),
        ("a:\n  b: [1", "line 2, column 8: while parsing a flow sequence, expected ',' or ']'"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("day: 2016-13-14", "line 1, column 6: month must be in 1..12"),
        ("a: &x [*x]", "line 1, column 4: a value cannot contain itself"),
        ("a: &x {b: [*x]}", "line 1, column 4: a value cannot contain itself"),
        ("a: &x {<<: *x}", "line 1, column 4: a value cannot contain itself"),
        ("? {a: 1}\n: 2", "line 1, column 3: a mapping cannot be a key"),
        ("? [a, 1]\n: 2", "line 1, column 3: a list cannot be a key"),
        (
            "home: {max_kw: 6,5, name: x}",
            "line 1, column 16: max_kw: 6,5 is not one number; write a point before its decimals",
        ),
        (
            "leader:\n  mu:1.0\n  price: 2",
            "line 2, column 3: 'mu:1.0' is no key with its value; put a space after the colon",
        ),
        ("leader: {mu:1.0}", "line 1, column 10: 'mu:1.0' is no key with its value; put a space after the colon"),
        ("--- 1\n--- 2", "line 2, column 1: expected a single document in the stream, but found another document"),
        ("!!python/object:os.system x", "line 1, column 1: could not determine a constructor for the tag"),
        ("[" * 20_000, "line 1, column 102: lists or mappings are nested deeper than 100 levels"),
        ("{a: " * 3000, "line 1, column 405: lists or mappings are nested deeper than 100 levels"),
        ("!" + "a" * 1_000_000 + " 1", "line 1, column 1: a tag of 1000000 characters"),
        ("- " * 20_000, "line 1, column 203: lists or mappings are nested deeper than 100 levels"),
        (
            "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 200)).replace("*a0", "1"),
            "line 101, column 7: lists or",
        ),
        (multiply_aliases(9, 9), "line 7, column 5: aliases make more than 1,000,000 values of it"),
    ],
)
@pytest.mark.timeout(20)
def test_mistake_is_reported_with_line_and_column(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (["b"], 4),
        (["b", "0", "d"], 6),
        (["b", "0", "x"], 5),
        (["c", "a"], 2),
        (["c", "b"], 8),
        (["nowhere"], 1),
    ],
)
def test_line_of_a_key_is_found(path: list[str], line: int) -> None:
    text = """# a comment
base: &base {a: 1,
  b: 2}
b:
  - {c: 1,
     d: 2}
c:
  b: 3
  <<: *base
"""
    assert find_line(text, path) == line


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**18), 10**18)
        | st.floats(allow_nan=False)
        | st.text(st.characters(min_codepoint=32, max_codepoint=0x24F, exclude_categories=["Cc"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("abc_<=~01x.-: #", max_size=4), inner),
        max_leaves=20,
    )
)
def test_content_is_read_as_it_was_written(content: Any) -> None:
    assert repr(parse(spell(content))) == repr(content)
