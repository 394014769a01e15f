"""Reading YAML with marks, and one clear message for whatever cannot be read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.document import InputError, Mark, Problem, parse, read_document

TEXT = """\
name: energy
train:
  steps: 200
  critic: {kind: energy, width: 64}
axes:
  privacy.epsilon: [1, 10]
cases:
  - name: plain
    train: {steps: 3}
"""


def message(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, "a.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1.0e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3.", -3.0),
        ("+7", 7),
        ("60_000", 60_000),
        ("007", 7),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        # Text in YAML 1.2; PyYAML's 1.1 reads booleans, base 60, a date and octal here.
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        ("0o7", "0o7"),
        ("1_0", "1_0"),
        ("1.2.3", "1.2.3"),
        ("'10'", "10"),
        ('"1e-5"', "1e-5"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = parse(f"key: {text}", "a.yaml").data["key"]
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_read_as_one() -> None:
    assert math.isnan(parse("key: .nan", "a.yaml").data["key"])


def test_marks_of_keys_and_values() -> None:
    document = parse(TEXT, "a.yaml")
    assert document.mark(("train", "critic", "width")) == Mark("a.yaml", 4, 33)
    assert document.mark(("train", "critic", "width"), key=True) == Mark("a.yaml", 4, 26)
    assert document.mark(("axes", "privacy.epsilon", 1)) == Mark("a.yaml", 6, 24)
    assert document.mark(("cases", 0, "train", "steps")) == Mark("a.yaml", 9, 20)


def test_what_is_not_there_has_the_mark_of_what_is_around_it() -> None:
    document = parse(TEXT, "a.yaml")
    assert document.mark(("train", "critic", "depth")) == document.mark(("train", "critic"), key=True)
    assert document.mark(("privacy", "epsilon")) == Mark("a.yaml", 1, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a.yaml:1:1: the file is empty; expected at least name, method, data and privacy"),
        ("# nothing\n", "a.yaml:1:1: the file is empty; expected at least name, method, data and privacy"),
        ("- 1\n", "a.yaml:1:1: the file holds the list [1]; expected keys and values, at least name, method, data and privacy"),
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3:1: key `a` is there twice (first in line 1); remove one of the two"),
        ("x: {a: 1, a: 2}\n", "a.yaml:1:11: key `a` is there twice (first in line 1); remove one of the two"),
        ("train:\n\tsteps: 3\n", "a.yaml:2:1: a tab; replace the tab by spaces (YAML takes spaces only)"),
        ("train:\n  a: 1\n \tsteps: 3\n", "a.yaml:3:2: a tab; replace the tab by spaces (YAML takes spaces only)"),
        ("a: {b: [1, 2}\n", "a.yaml:1:13: the bracket opened at 1:8 is not closed; add `,` or `]`"),
        ("a: {b: 1\nc: 2\n", "a.yaml:2:2: the bracket opened at 1:4 is not closed; add `,` or `}`"),
        (
            "a:\n  b: 1\n c: 2\n",
            "a.yaml:3:2: this line does not fit the lines above it; give all keys of one block the same indentation",
        ),
        ("a: b: c\n", "a.yaml:1:5: a second `: ` in one value; check the indentation, or put the value in quotes"),
        ("a: 1\nsteps 3\n", "a.yaml:2:1: this is neither `key: value` nor a list item; write `key: value`"),
        ("a: 'text\n", "a.yaml:1:4: this quote or bracket is never closed; close it"),
        ("1: 2\n", "a.yaml:1:1: the key `1` is not text; expected a name"),
        ("[1]: 2\n", "a.yaml:1:1: the key a list or mapping is not text; expected a name"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2:1: a second document (`---`); put it in a file of its own (a file holds one)"),
        ("a: &x 1\n", "a.yaml:1:4: anchor `&x`; write the value out; `train:` is shared by all cases (anchors are not read)"),
        ("a: *x\n", "a.yaml:1:4: anchor `*x`; write the value out; `train:` is shared by all cases (anchors are not read)"),
        (
            "a: !!python/name:os.system x\n",
            "a.yaml:1:4: tag `!!python/name:os.system`; "
            "write the plain value, in quotes if it starts with `!` (tags are not read)",
        ),
        ("a: " + "[" * 3000, "a.yaml: brackets are nested too deeply"),
        ("a: 1\nb: \x00\n", "a.yaml:2: character '\\x00' is not allowed in YAML; remove it"),
    ],
)
def test_what_cannot_be_read_is_one_message(text: str, expected: str) -> None:
    assert message(text) == expected


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    for name in ("other.yaml", "energy.yaml", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        read_document(tmp_path / "enrgy.yaml")
    listed = f"{tmp_path / 'energy.yaml'}, {tmp_path / 'other.yaml'}"
    assert str(caught.value) == f"{tmp_path / 'enrgy.yaml'}: no such file; YAML files there: {listed}"


def test_missing_folder_and_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_document(tmp_path / "nowhere" / "energy.yaml")
    assert str(caught.value) == f"{tmp_path / 'nowhere' / 'energy.yaml'}: no such file"
    with pytest.raises(InputError) as caught:
        read_document(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder; expected a YAML file"


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffname: é\n".encode())  # editors on Windows write the mark at the start
    assert read_document(path).data == {"name": "é"}
    path.write_bytes(b"name: a\ntitle: \xe9\n")
    with pytest.raises(InputError) as caught:
        read_document(path)
    assert str(caught.value) == f"{path}:2: is not UTF-8 text; save the file as UTF-8"


def test_an_error_lists_its_problems_once_each_and_as_a_reader_meets_them() -> None:
    late, early = Problem(Mark("a", 7, 1), "late"), Problem(Mark("a", 2, 9), "early", "expected more", "write more")
    error = InputError(late, early, late)
    assert str(error) == "a:2:9: early; write more (expected more)\na:7:1: late"
    assert (error.mark.line, error.mark.column) == (2, 9)


def test_a_long_list_of_problems_is_cut() -> None:
    error = InputError(*(Problem(Mark("a", line, 1), "wrong") for line in range(1, 51)))
    assert str(error).splitlines()[-1] == "... and 30 more like these"
    assert len(str(error).splitlines()) == 21
