"""Phases that release nothing: free, and held to it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from trainables.privacy import accounting
from trainables.privacy.budget import Budget
from trainables.privacy.mechanism import NoRelease, Phase, from_dict, scale_noise, to_dict
from trainables.privacy.sanitizer import PrivacyViolation, Sanitizer

FREE = Phase(mechanism=NoRelease(), steps=7)
REFERENCE = Phase(mechanism=NoRelease(purpose="reference"), steps=1)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("neighbours", ["replace_one", "add_remove"])
def test_steps_without_a_release_cost_nothing(records, accountant, neighbours):
    """Wherever they stand, and though their own relation is another one."""
    private = records(0.05, 20, 1.1, neighbours=neighbours)
    alone = accounting.epsilon([private], delta=1e-5, accountant=accountant)
    assert accounting.epsilon([FREE, private, FREE], delta=1e-5, accountant=accountant) == alone
    assert accounting.epsilon([FREE], delta=1e-5, accountant=accountant) == 0.0
    assert accounting.proof([private, FREE], accountant) == accounting.proof([private], accountant)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_real_images_have_no_epsilon(records, accountant):
    for phases in ([REFERENCE], [records(0.05, 20, 1.1), REFERENCE]):
        assert math.isinf(accounting.epsilon(phases, delta=1e-5, accountant=accountant))
        assert accounting.proof(phases, accountant) == "not_private"


def test_the_reserve_is_of_releases(records):
    request = {"target_epsilon": 5.0, "delta": 1e-5, "accountant": "pld", "reserve_steps": 2}
    private = records(1.0, 10, 1.0)
    assert accounting.calibrate([private, FREE], **request) == accounting.calibrate([private], **request)
    with pytest.raises(ValueError, match="no phases release anything"):
        accounting.calibrate([FREE], **request)


def test_scaling_and_json_leave_them_as_they_are():
    assert scale_noise([FREE, REFERENCE], 3.0) == (FREE, REFERENCE)
    assert [from_dict(json.loads(json.dumps(to_dict(phase), allow_nan=False))) for phase in (FREE, REFERENCE)] == [
        FREE,
        REFERENCE,
    ]


def test_the_budget_does_not_end_them(records):
    phases = [records(1.0, 10, accounting.calibrate([records(1.0, 10, 1.0)], target_epsilon=5.0, delta=1e-5, accountant="pld"))]
    budget = Budget([*phases, FREE], target_epsilon=5.0, delta=1e-5, accountant="pld")
    assert budget.affordable([10, 0], [1] * 100) == 100, "steps that are free may be repeated for ever"
    assert budget.affordable([10, 0], [0]) == 0


@pytest.mark.parametrize("call", ["sample_records", "sample_shards", "release_records", "release_tensor", "release_rows"])
@pytest.mark.parametrize("phase", [FREE, REFERENCE])
def test_a_draw_or_a_release_in_them_is_a_violation(phase, call):
    sanitizer = Sanitizer([phase])
    sanitizer.open_step(0, 0)
    arguments = {"release_records": ([],), "release_tensor": (torch.zeros(2),), "release_rows": (torch.zeros(1, 2),)}
    bound = {"max_grad_norm": 1.0} if call.startswith("release") else {}
    with pytest.raises(PrivacyViolation, match=call):
        getattr(sanitizer, call)(*arguments.get(call, ()), **bound)
    sanitizer.close_step()
    assert np.sum(sanitizer.releases) == 0
