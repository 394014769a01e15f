"""The plan of a launch: every worker finds its own job in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.account_files import LedgerError
from harness.folders import write_json
from harness.planfile import read_job, write_plan

JOBS = {
    "a": {"id": "a", "stages": {"ab": "reference-1"}, "label": 'two\nlines and "ab": 1'},
    "ab": {"id": "ab", "nothing": None},
    "reference-1": {"id": "reference-1", "b": {"ab": {"id": "another"}}},
    'a "quoted" \\ one é': {"id": "quoted"},
}


def test_every_job_is_found(tmp_path: Path) -> None:
    path = tmp_path / "launch" / "plan.json"
    write_plan(path, JOBS.items())
    assert {job_id: read_job(path, job_id) for job_id in JOBS} == JOBS
    assert json.loads(path.read_text()) == {"jobs": JOBS}, "it is JSON all the same"


def test_a_plan_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "plan.json", {"jobs": JOBS})
    assert {job_id: read_job(tmp_path / "plan.json", job_id) for job_id in JOBS} == JOBS


@pytest.mark.parametrize("content", [None, "", "{", '{"jobs": {}}', '{"jobs": {\n"a": {"id": \n}}'])
def test_a_plan_without_the_job_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LedgerError, match=r"plan\.json does not hold job a \("):
        read_job(path, "a")
