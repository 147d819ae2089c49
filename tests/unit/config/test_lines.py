"""The scanner that tells lines, against texts whose lines are plain to see."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.config.lines import find_lines, nearest_line, split_key

AWKWARD = '''# [not.a.section]
title = "a # in text, and [brackets]"

[run]   # a comment
device = 'cpu'
every.updates = 5
text = """
[not.a.section]
key = 1
"""
list = [
    1, # ]
    [2, 3],
    "]",
]
after = 2
"odd key" . part = true
inline = { a = 1, b = { c = 2 } }

[ algorithms . "K=5" ]
name = "fedbuff"
path = 'C:\\'
last = """\\""\\"""""
end = 1
[[tables]]
x = 1
'''


def test_the_text_is_one_that_tomllib_takes():
    assert tomllib.loads(AWKWARD)["run"]["after"] == 2


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("run",), 4),
        (("run", "device"), 5),
        (("run", "every"), 6),
        (("run", "every", "updates"), 6),
        (("run", "text"), 7),
        (("run", "list"), 11),
        (("run", "after"), 16),
        (("run", "odd key", "part"), 17),
        (("run", "inline"), 18),
        (("algorithms", "K=5"), 20),
        (("algorithms", "K=5", "name"), 21),
        (("algorithms", "K=5", "path"), 22),
        (("algorithms", "K=5", "last"), 23),
        (("algorithms", "K=5", "end"), 24),
        (("tables",), 25),
        (("tables", "x"), 26),
    ],
)
def test_each_key_is_found_on_its_line(path, line):
    assert find_lines(AWKWARD)[path] == line


def test_what_only_looks_like_a_key_is_not_found():
    found = find_lines(AWKWARD)
    assert not any("not" in path or path == ("run", "key") for path in found)


def test_what_has_no_line_of_its_own_has_the_line_of_what_is_around_it():
    found = find_lines(AWKWARD)
    assert nearest_line(found, ("run", "inline", "b", "c")) == 18
    assert nearest_line(found, ("run", "absent")) == 4
    assert nearest_line(found, ("absent",)) is None


def test_carriage_returns_do_not_shift_the_lines():
    assert find_lines("a = 1\r\n[b]\r\nc = 2\r\n") == {("a",): 1, ("b",): 2, ("b", "c"): 3}


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True),
        st.dictionaries(
            st.from_regex(r"[a-z]{1,8}", fullmatch=True),
            st.sampled_from(["1", '"#"', "[1,\n 2]", "'''\n[x]\n'''", "{ a = 1 }", '"\\""']),
            max_size=4,
        ),
        max_size=5,
    )
)
def test_the_lines_are_those_that_the_text_was_written_on(tree):
    lines, expected = [], {}
    for section, keys in tree.items():
        lines.append(f"[{section}]")
        expected[section,] = len("\n".join(lines).split("\n"))
        for key, value in keys.items():
            lines.append(f"{key} = {value}")
            expected[section, key] = "\n".join(lines).count("\n") + 1 - value.count("\n")
    text = "\n".join(lines)
    tomllib.loads(text)
    assert find_lines(text) == expected


@pytest.mark.parametrize("text", ["", " = 3", "]", '"open'])
def test_what_is_no_key_has_no_parts(text):
    assert split_key(text)[0] == ()
