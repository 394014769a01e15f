"""``dpac`` against a plain re-statement of the published step (Chen, Liu, Ma, Nepal & Xu, CVPR 2023).

Beside the critic of GS-WGAN (``published_pieces``) the generator listens to a classifier that is made afresh at every step and
sees generated images first, the drawn shard's records after them, never both together. The published code's two defects are no
part of it: the generator's batch keeps its size, and both releases are counted (``test_dpac_defects``).

Coins, keyed (purpose, indices) by the trial's seed: ("classifier weights", step) the new network, ("classifier fakes", step)
the latents of the generated images, ("classifier batch", step, update, shard) the order of the records. One forward pass gives
the scores and the points of the gradient penalty, so the norms' vectors move once an update.
"""

from __future__ import annotations

import pytest
import torch
from published_pieces import (
    SEED,
    Adam,
    Loss,
    Restatement,
    Tensors,
    bernoulli,
    check_equal,
    generator,
    gradients,
    leaves,
    made,
    normalised,
    parameters_of,
    trunk,
)
from published_pieces import critic as critic_score
from torch import Tensor
from torch.nn import functional

from trainables.coins import torch_coins
from trainables.dpac.method import PRESETS
from trainables.networks.critic import Classifiers

CRITIC_WEIGHT, CLASSIFIER_WEIGHT = 0.8, 0.2
START, FAKE_STEPS, FAKE_BATCH, REAL_STEPS = 1, 4, 20, 3
WIDTH, BATCH, SHARD_BATCH = 8, 6, 7
CLIP = 0.026


def score(state: Tensors, images: Tensor, labels: Tensor) -> Tensor:
    """Outputs of a linear layer, one a class: that of the label less the mean of the others."""
    outputs = functional.linear(trunk(state, images), normalised(state, "linear"), state["linear.bias"])
    of_label = outputs.gather(1, labels[:, None])[:, 0]
    return of_label - (outputs.sum(dim=1) - of_label) / 9


def score_gradients(state: Tensors, images: Tensor, labels: Tensor) -> Tensors:
    """Gradients of -E score + 10 (||grad score|| - 1)^2 + 0.001 E score^2 at these images."""
    parameters = leaves(state)
    state |= parameters
    points = images.detach().requires_grad_()
    scores = score(state, points, labels)
    (slope,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return gradients(-scores.mean() + 10 * penalty + 1e-3 * (scores**2).mean(), parameters)


class DPAC(Restatement):
    """GS-WGAN's step with the classifier beside the critic."""

    accumulate = True

    def losses(self, step: int, shard: int, labels: Tensor) -> list[Loss]:
        trained = self.trained_critic(step, shard)
        found: list[Loss] = [lambda images: -CRITIC_WEIGHT * critic_score(trained, images, labels).mean()]
        if step >= START:
            classifier = self.trained_classifier(step, shard)
            found.append(lambda images: -CLASSIFIER_WEIGHT * score(classifier, images, labels).mean())
        return found

    def trained_classifier(self, step: int, shard: int) -> Tensors:
        """A new classifier after updates on generated images, all on the same ones, and then on records of the shard."""
        network = Classifiers((1, 28, 28), 10, channels=WIDTH, rngs=[torch_coins(SEED, "classifier weights", step)])
        state = {name: tensor[0].clone() for name, tensor in network.state_dict().items()}
        adam = Adam(parameters_of(state))
        labels = torch.arange(10).repeat_interleave(FAKE_BATCH // 10)
        z = bernoulli(FAKE_BATCH, SEED, "classifier fakes", step)
        fakes = generator(self.state, z, labels, iterate=False).detach()
        total = {name: torch.zeros_like(tensor) for name, tensor in adam.parameters.items()}
        for _ in range(FAKE_STEPS):
            found = score_gradients(state, fakes, labels)
            # As published: these gradients are never reset, so each update follows the sum of all so far.
            total = {name: total[name] + gradient for name, gradient in found.items()} if self.accumulate else found
            adam.step(total)
            state |= adam.parameters
        for update in range(REAL_STEPS):
            real = self.records(shard, SHARD_BATCH, torch_coins(SEED, "classifier batch", step, update, shard))
            adam.step(score_gradients(state, *real))
            state |= adam.parameters
        return {name: tensor.detach() for name, tensor in state.items()}


class DPACWithReset(DPAC):
    """With the gradients of every update on generated images starting from zero, which is the engine's default."""

    accumulate = False


@pytest.mark.parametrize("restatement", [DPAC, DPACWithReset])
def test_four_steps_across_the_start_are_the_published_ones(float64, tmp_path, restatement):
    """The preset's settings but for sizes, the start and the number of updates; weights and releases are dpac's defaults."""
    classifier = {
        **PRESETS["published"]["classifier"],
        "start": START,
        "channels": WIDTH,
        "fake_steps": FAKE_STEPS,
        "fake_batch": FAKE_BATCH,
        **({} if restatement.accumulate else {"accumulate_fake_gradients": False}),
        "real_steps": REAL_STEPS,
        "batch": SHARD_BATCH,
    }
    sizes = {"width": WIDTH, "batch": BATCH, "critic_batch": SHARD_BATCH}
    settings = {"steps": 4, "max_grad_norm": CLIP, "classifier": classifier}
    run, restated = made(restatement, tmp_path, method="dpac", **sizes, **settings)
    before = run.trainer.state_dict()["generator"]
    run.advance(0, 4)
    for step in range(4):
        restated.step(step)
    check_equal(run, restated, before)
    assert run.sanitizer.releases == [1, 6], "a release a signal, and all of them counted"
    critic, classifier = restated.clipped[:2] + restated.clipped[3::2], restated.clipped[2::2]
    assert critic == [BATCH] * 4
    assert 0 < sum(classifier) < 3 * BATCH, "the weighted answers of the classifier are clipped where they are longer"
