"""Edits by ``--set``: what they change, how they are marked, what is refused."""

from __future__ import annotations

import pytest

from harness.document import Document, InputError, Mark, parse
from harness.overrides import apply_overrides

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


def edit(*overrides: str) -> Document:
    return apply_overrides(parse(TEXT, "a.yaml"), overrides)


def edit_message(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        edit(*overrides)
    return str(caught.value)


def test_override_sets_replaces_and_creates() -> None:
    document = edit("train.steps=50", "train.critic.kind=trained", "privacy.delta=1e-6", "seeds=", "cases.0.train.steps=4")
    assert document.data["train"] == {"steps": 50, "critic": {"kind": "trained", "width": 64}}
    assert document.data["privacy"] == {"delta": 1e-6}
    assert document.data["seeds"] is None
    assert document.data["cases"] == [{"name": "plain", "train": {"steps": 4}}]
    assert [override.text for override in document.overrides] == [
        "train.steps=50", "train.critic.kind=trained", "privacy.delta=1e-6", "seeds=", "cases.0.train.steps=4",
    ]  # fmt: skip


def test_override_of_an_axis_keeps_the_dots_of_its_name() -> None:
    document = edit("axes.privacy.epsilon=[1, 2, 3]", "zip.train.steps=3")
    assert document.data["axes"] == {"privacy.epsilon": [1, 2, 3]}
    assert document.data["zip"] == {"train": {"steps": 3}}  # not a list of groups: the models say so


def test_override_leaves_the_document_it_edits_alone() -> None:
    document = parse(TEXT, "a.yaml")
    apply_overrides(document, ["train.critic.kind=trained", "cases.0.name=other"])
    assert document == parse(TEXT, "a.yaml")


def test_override_is_what_its_value_is_marked_with() -> None:
    document = edit("train.critic={kind: trained}", "privacy.delta=2")
    override = Mark("--set train.critic={kind: trained}")
    assert document.mark(("train", "critic", "kind")) == override
    assert document.mark(("train", "critic", "width"), key=True) == override
    assert document.mark(("train", "steps")) == Mark("a.yaml", 3, 10)
    assert document.mark(("privacy",)) == Mark("--set privacy.delta=2")
    assert str(override) == "--set train.critic={kind: trained}"


def test_later_override_wins() -> None:
    assert edit("train.steps=50", "train={}", "train.steps=60").data["train"] == {"steps": 60}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps", "--set train.steps: is not an edit; write --set path=value, such as --set train.steps=50"),
        ("=3", "--set =3: is not an edit; write --set path=value, such as --set train.steps=50"),
        ("a..b=3", "--set a..b=3: is not an edit; write --set path=value, such as --set train.steps=50"),
        ("train.a=[1", "--set train.a=[1: the bracket opened at 1:1 is not closed; add `,` or `]`"),
        ("name.x=3", '--set name.x=3: `name` is the text "energy", which has no keys'),
        ("cases.1.name=b", "--set cases.1.name=b: `cases` has no item 1; write cases.0 for the first (it is a list of 1)"),
        ("cases.x.name=b", "--set cases.x.name=b: `cases` has no item x; write cases.0 for the first (it is a list of 1)"),
    ],
)
def test_impossible_overrides(override: str, expected: str) -> None:
    assert edit_message(override) == expected


def test_an_axis_is_edited_as_an_axis() -> None:
    expected = "privacy.epsilon is an axis of this sweep, and its values would win; write --set axes.privacy.epsilon=[1, 3]"
    assert edit_message("privacy.epsilon=[1, 3]") == f"--set privacy.epsilon=[1, 3]: {expected}"
    assert edit("axes.privacy.epsilon=[1, 3]").data["axes"] == {"privacy.epsilon": [1, 3]}
