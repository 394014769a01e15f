"""What methods tell an audit about single records is what their releases are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import registry
from trainables.data import sources
from trainables.dp_merf.embedding import release
from trainables.dp_merf.method import Config as MerfConfig
from trainables.dp_merf.method import stages
from trainables.privacy.canary_scores import RecordContributions
from trainables.privacy.sanitizer import Contribution, Sanitizer


class Listener(Sanitizer):
    """Keeps, of every release, the contributions of its records and what the method would say of these records."""

    told: RecordContributions
    seen: list[tuple[torch.Tensor, torch.Tensor, RecordContributions]]

    def explain_records(self, of_records: RecordContributions) -> None:
        self.told = of_records
        super().explain_records(of_records)

    def release_records(self, contributions: Iterable[Contribution], *, max_grad_norm: float) -> torch.Tensor:
        def listening() -> Iterator[Contribution]:
            for part in contributions:
                self.check(part)
                yield part

        return super().release_records(listening(), max_grad_norm=max_grad_norm)

    def check(self, part: Contribution) -> None:
        """The first three records of a micro-batch: one at a time through the release's own sum, and as they are told."""
        assert part.records is not None
        assert len(part.records) == len(part.norms)
        data = self.data
        blocks = self.told.blocks
        for row, record in list(enumerate(part.records.tolist()))[:3]:
            one = part.weighted_sum(torch.eye(len(part.norms), dtype=torch.float64)[row]).reshape(blocks, -1)
            images, labels = torch.from_numpy(data.images[[record]]), torch.from_numpy(data.labels[[record]])
            told = self.told.of(images, labels).double()[0]
            expected = torch.zeros_like(one)
            expected[labels[0] if blocks > 1 else 0] = told
            assert torch.allclose(one, expected, atol=1e-5 * float(part.norms[row]), rtol=1e-4)
            self.checked += 1

    data: Any
    checked = 0


@pytest.mark.parametrize(
    ("method", "settings", "steps"),
    [
        ("dp_energy", {"steps": 4, "slots": 20, "generator_channels": 4, "sampling_rate": 0.1}, 2),
        (
            "dp_energy_guided",
            {
                "steps": 4,
                "slots": 20,
                "generator_channels": 4,
                "sampling_rate": 0.1,
                "classifier": {"steps": 2, "sampling_rate": 0.1},
            },
            4,
        ),
        ("dpgan", {"steps": 4, "critic_channels": 4, "generator_channels": 4}, 2),
    ],
)
def test_what_is_told_of_a_record_is_what_it_adds(method: str, settings: dict[str, Any], steps: int) -> None:
    data, _ = sources.load("digits")
    module = registry.method(method)
    config = module.Config(**settings)
    phases = module.mechanism(config, data.info, "replace_one")
    listener = Listener(phases)
    listener.data = data
    trainer = registry.training(method).Trainer(config, data, listener, {}, torch.device("cpu"), 0)
    for step in range(steps):
        listener.open_step(step, 0 if step < phases[0].steps else 1)
        trainer.step()
        listener.close_step()
    assert listener.checked >= 3 * steps


def test_what_is_told_of_a_record_is_what_it_adds_to_a_shared_release(tmp_path: Path) -> None:
    data, _ = sources.load("digits")
    config = MerfConfig(features=50)
    listener = Listener(registry.method("dp_merf").mechanism(config, data.info, "replace_one"))
    listener.data = data
    listener.open_step(0, 0)
    release(stages(config, data.info)[0].config, data, listener, tmp_path, torch.device("cpu"))
    listener.close_step()
    assert listener.checked >= 3
