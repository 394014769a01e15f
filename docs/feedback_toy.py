"""Error feedback on a problem whose clipping bias is known: draws docs/feedback.png and prints its tables as Markdown.

    python docs/feedback_toy.py

K shards pull a point x in R towards targets of their own: shard k answers with the gradient ``x - a_k``. A share p < 1/2 of
them has the target A, the others 0, so that the mean gradient vanishes at the optimum ``p A``, where the far shards pull with
(1 - p) A and the near ones with p A. Clipped to C, their mean between 0 and A is ``(1 - p) min(x, C) - p min(A - x, C)``.
It vanishes at

    rest(C) = p min(C, (1 - p) A) / (1 - p).

There plain clipping to C1 = C rests: short of the optimum if C1 < (1 - p) A. What each form makes of that, in expectation over
the draws, at a small rate and without noise:

per_shard   A buffer grows until it gives back what the clip takes, or for ever where that is more than C2. Either way shard k
            is heard as clip(g_k, C1 + C2) in the long run, so x rests at rest(C1 + C2): where plain clipping to C1 + C2 does.
paper       (With C1 >= p A.) The buffer of all shards stands still at the optimum if C2 carries what a step of m shards loses
            there, m p ((1 - p) A - C1) on average. If not, it adds C2 for ever: x rests at (p C1 + C2 / m) / (1 - p).
DiceSGD     (Zhang et al., ICLR 2024.) The same for the mean of a Poisson sample in place of a sum: C2 counts m times.
public      One memory M: at rest neither M nor x moves, so the mean of clip(g_k - M, C1) is 0 and so is M. That is rest(C1).
            A memory a shard (round-robin, m = 1; EF21): at rest M_k = g_k, so x is at the optimum whatever C1. A memory a group
            that always answers together: at the mean of the groups' own rest(C1), each with the group's p.

All runs use the sanitizer and the feedback of the package; DiceSGD, which none of its methods uses, is written down here.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from trainables.coins import numpy_coins
from trainables.privacy.accounting import calibrate
from trainables.privacy.mechanism import Phase, RecordMechanism, Schedule, ShardMechanism
from trainables.privacy.sanitizer import Contribution, Sanitizer
from trainables.sharded_gan import feedback
from trainables.sharded_gan.bounds import carried_share, row_bound

Form = Literal["none", "paper", "per_shard", "public", "dp_sgd", "dice_sgd"]

P, FAR, C1 = 0.2, 4.0, 1.0
OPTIMUM = P * FAR
EPSILON, DELTA = 10.0, 1e-5


def rest(clip: float, share: float = P) -> float:
    """Where gradients clipped to ``clip`` balance."""
    return share * min(clip, (1 - share) * FAR) / (1 - share)


def rest_shared(feedback_clip: float, shards_per_step: int) -> float:
    """Where x rests with the paper's buffer; DiceSGD's C2 is to be multiplied by m before."""
    return min((P * C1 + feedback_clip / shards_per_step) / (1 - P), OPTIMUM)


def far_apart(shards: int) -> tuple[float, ...]:
    """Targets of the shards: every fifth is far."""
    return tuple(FAR if shard % round(1 / P) == 0 else 0.0 for shard in range(shards))


@dataclass(frozen=True, kw_only=True)
class Descent:
    """A descent from 0 of ``images`` points at once, which are the rows of every release and share the draws."""

    form: Form
    targets: tuple[float, ...] = far_apart(10)
    schedule: Schedule = "sampled"
    shards_per_step: int = 2
    images: int = 1
    clip: float = C1
    feedback_clip: float = 0.0
    feedback_rate: float = 0.1
    steps: int = 20_000
    rate: float = 0.01

    def phase(self, noise_multiplier: float) -> Phase:
        """What a step releases. The records of DP-SGD are the shards; DiceSGD is declared as the paper's buffer, whose account
        hands the draws over: a Poisson sample has binomial visits too."""
        shape, shards = (self.images, 1), len(self.targets)
        if self.form == "dp_sgd":
            records = RecordMechanism(
                sampling_rate=self.shards_per_step / shards,
                records=shards,
                release_shape=shape,
                noise_multiplier=noise_multiplier,
            )
            return Phase(mechanism=records, steps=self.steps)
        mechanism = ShardMechanism(
            schedule=self.schedule,
            shards=shards,
            shards_per_step=self.shards_per_step,
            release_shape=shape,
            noise_multiplier=noise_multiplier,
            carried=carried_share(*self._bounds()),
        )
        return Phase(mechanism=mechanism, steps=self.steps)

    def noise_multiplier(self) -> float:
        """The smallest that is proven to give epsilon 10 at delta 1e-5."""
        return calibrate([self.phase(1.0)], target_epsilon=EPSILON, delta=DELTA, accountant="pld")

    def noise_std(self, noise_multiplier: float) -> float:
        """Standard deviation an entry of a release / m, the mean answer."""
        if self.form == "dp_sgd":
            return noise_multiplier * self.clip * math.sqrt(self.images) / self.shards_per_step
        return noise_multiplier * 2 * row_bound(*self._bounds()) / self.shards_per_step

    def run(self, noise_multiplier: float = 0.0) -> np.ndarray:
        """Positions after every step, ``[steps, images]``."""
        descend = {"dp_sgd": _dp_sgd, "dice_sgd": _dice_sgd}.get(self.form, _by_shards)
        return descend(self, noise_multiplier)

    def rests_at(self) -> float:
        """Mean position over the second half of a run without noise."""
        return float(self.run()[self.steps // 2 :].mean())

    def _bounds(self) -> tuple[Any, float, float]:
        """The kind of feedback, C1 and C2 of a sum over m shards."""
        if self.form == "dice_sgd":
            return "paper", self.clip, self.shards_per_step * self.feedback_clip
        return self.form, self.clip, self.feedback_clip


def _by_shards(toy: Descent, noise_multiplier: float) -> np.ndarray:
    form = feedback.build(
        cast(Any, toy.form),
        max_grad_norm=toy.clip,
        feedback_clip=toy.feedback_clip,
        feedback_rate=toy.feedback_rate,
        keyed=toy.schedule == "round_robin",
    )
    # Injected coins, so that the figure comes out the same again; the noise is as large as with the secret ones.
    sanitizer = Sanitizer([toy.phase(noise_multiplier)], injected_seed=0, executed=[0])
    x, targets, path = torch.zeros(toy.images, 1, dtype=torch.float64), np.array(toy.targets), []
    for step in range(toy.steps):
        sanitizer.open_step(step, 0)
        shards = sanitizer.sample_shards()
        gradients = x - torch.from_numpy(targets[shards])[:, None, None]
        x = x - toy.rate / toy.shards_per_step * form.release(sanitizer, gradients.float(), shards)
        sanitizer.close_step()
        path.append(x[:, 0].numpy())
    return np.stack(path)


def _dp_sgd(toy: Descent, noise_multiplier: float) -> np.ndarray:
    """Plain DP-SGD (Abadi et al., 2016): a record's gradient in all points is clipped as one, to C1 sqrt(points)."""
    sanitizer = Sanitizer([toy.phase(noise_multiplier)], injected_seed=0)
    x, targets, path = torch.zeros(toy.images, 1, dtype=torch.float64), np.array(toy.targets), []
    for step in range(toy.steps):
        sanitizer.open_step(step, 0)
        gradients = x - torch.from_numpy(targets[sanitizer.sample_records()])[:, None, None]
        one = Contribution(
            norms=gradients.flatten(1).norm(dim=1),
            weighted_sum=partial(torch.einsum, "nbd,n->bd", gradients),
        )
        released = sanitizer.release_records([one], max_grad_norm=toy.clip * math.sqrt(toy.images))
        x = x - toy.rate / toy.shards_per_step * released
        sanitizer.close_step()
        path.append(x[:, 0].numpy())
    return np.stack(path)


def _dice_sgd(toy: Descent, noise_multiplier: float) -> np.ndarray:
    """Zhang et al., ICLR 2024: v = mean clip(g_i, C1) + clip(e, C2), then e <- e + mean g_i - v; bounds as in ``_dp_sgd``."""
    x, error, targets, path = np.zeros(toy.images), np.zeros(toy.images), np.array(toy.targets), []
    rate, std = toy.shards_per_step / len(targets), toy.noise_std(noise_multiplier)

    def clipped(gradients: np.ndarray, bound: float) -> np.ndarray:
        norms = np.linalg.norm(gradients, axis=-1, keepdims=True) / math.sqrt(toy.images)
        return gradients / np.maximum(1.0, norms / bound)

    for step in range(toy.steps):
        coins = numpy_coins(0, "DiceSGD", step)
        gradients = x - targets[coins.random(len(targets)) < rate, None]
        value = clipped(gradients, toy.clip).sum(axis=0) / toy.shards_per_step + clipped(error, toy.feedback_clip)
        error = error + gradients.sum(axis=0) / toy.shards_per_step - value
        x = x - toy.rate * (value + std * coins.standard_normal(toy.images))
        path.append(x)
    return np.stack(path)


# --- bias: where each form rests without noise ----------------------------------------------------------------------------

EACH: dict[str, Any] = {"form": "public", "schedule": "round_robin", "shards_per_step": 1, "feedback_rate": 1.0}
"""Public memory a shard: EF21."""

BUFFERS: dict[str, dict[str, Any]] = {
    "per_shard": {"form": "per_shard", "schedule": "round_robin"},
    "paper": {"form": "paper"},
    "DiceSGD": {"form": "dice_sgd"},
}
"""Forms that C2 matters to, K = 10 and m = 2."""

WITHOUT: dict[str, tuple[dict[str, Any], float]] = {
    "plain clipping": ({"form": "none"}, rest(C1)),
    "DP-SGD": ({"form": "dp_sgd"}, rest(C1)),
    "public, one memory": ({"form": "public"}, rest(C1)),
    "public, a memory a shard": (EACH, OPTIMUM),
}
"""Forms without a C2, and where they rest."""


def expected(name: str, feedback_clip: float) -> float:
    """Where a form of ``BUFFERS`` rests with C2 = ``feedback_clip``."""
    if name == "per_shard":
        return rest(C1 + feedback_clip)
    return rest_shared(feedback_clip * (2 if name == "DiceSGD" else 1), 2)


# --- a long gradient that all shards share: how soon x arrives ------------------------------------------------------------

DISTANCE, NEAR = 10.0, 0.1
TOGETHER: dict[str, Any] = {"targets": (DISTANCE,) * 2, "steps": 4000}

ARRIVALS: dict[str, dict[str, Any]] = {
    "plain clipping": {"form": "none"},
    "public, one memory": {"form": "public"},
    "per_shard, C2 = 1": {"form": "per_shard", "schedule": "round_robin", "feedback_clip": 1.0},
    "paper, C2 = m = 2": {"form": "paper", "feedback_clip": 2.0},
}


def arrives(path: np.ndarray) -> int:
    """Steps after which x ``[steps, 1]`` stays within 0.1 of the common target."""
    return int(np.flatnonzero(abs(path[:, 0] - DISTANCE) > NEAR)[-1]) + 2


def arrival_clipped(rate: float) -> float:
    """At speed C1 to where the clip ends, then exponentially."""
    return (DISTANCE - C1) / (rate * C1) + math.log(C1 / NEAR) / rate


def arrival_public(rate: float, beta: float) -> float:
    """M grows by beta C1 a step, and x moves by rate (M + C1), until they are within C1; then the whole gradient is heard.

    Holds while M can follow the falling gradient, rate (M + C1) <= beta C1.
    """
    a, b = rate * beta * C1 / 2, rate * C1 + beta * C1
    catches = (math.sqrt(b * b + 4 * a * (DISTANCE - C1)) - b) / (2 * a)
    assert rate * (beta * catches + 1) <= beta
    return catches + math.log((beta * C1 * catches + C1) / NEAR) / rate


# --- price: the same problem under a proven epsilon -----------------------------------------------------------------------

LARGE: dict[str, Any] = {"targets": far_apart(1000), "shards_per_step": 32, "images": 40, "steps": 2000, "rate": 0.005}
ROUNDS: dict[str, Any] = {**LARGE, "schedule": "round_robin"}
ENOUGH = (1 - P) * FAR - C1  # the smallest C2 that per_shard needs

PRICED: dict[str, tuple[Descent, float]] = {
    "plain clipping": (Descent(form="none", **LARGE), rest(C1)),
    "plain clipping, C1 = 3.2": (Descent(form="none", clip=C1 + ENOUGH, **LARGE), OPTIMUM),
    "DP-SGD": (Descent(form="dp_sgd", **LARGE), rest(C1)),
    "DP-SGD, C1 = 3.2": (Descent(form="dp_sgd", clip=C1 + ENOUGH, **LARGE), OPTIMUM),
    "public, one memory": (Descent(form="public", **LARGE), rest(C1)),
    "round robin: plain clipping": (Descent(form="none", **ROUNDS), rest(C1)),
    "round robin: plain, C1 = 3.2": (Descent(form="none", clip=C1 + ENOUGH, **ROUNDS), OPTIMUM),
    **{
        f"round robin: per_shard, C2 = {c2:g}": (Descent(form="per_shard", feedback_clip=c2, **ROUNDS), rest(C1 + c2))
        for c2 in (0.5, 1.0, ENOUGH)
    },
    **{
        f"paper, C2 = {c2:g}": (Descent(form="paper", feedback_clip=c2, **LARGE), rest_shared(c2, 32))
        for c2 in (0.5, 1.0, ENOUGH, 32 * P * ENOUGH)
    },
    "DiceSGD, C2 = 0.44": (Descent(form="dice_sgd", feedback_clip=P * ENOUGH, **LARGE), OPTIMUM),
    "round robin, m = 1: plain clipping": (Descent(**{**ROUNDS, "form": "none", "shards_per_step": 1}), rest(C1)),
    "round robin, m = 1: public, a memory a shard": (Descent(**{**LARGE, **EACH, "feedback_rate": 0.1}), OPTIMUM),
}
"""What epsilon 10 makes of each, and where it would rest without noise."""


def distance_with_noise(toy: Descent, noise_multiplier: float) -> float:
    """Root mean square distance from the optimum over the last fifth of the steps."""
    path = toy.run(noise_multiplier)[-toy.steps // 5 :]
    return float(np.sqrt(np.square(path - OPTIMUM).mean()))


# --- tables and figure ----------------------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> None:
    """Print Markdown."""
    for cells in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(cells) + " |")
    print()


def main() -> None:
    feedback_clips = (0.0001, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.4, 3.0)
    without = {name: Descent(**settings).rests_at() for name, (settings, _) in WITHOUT.items()}
    runs = {
        name: [Descent(**settings, feedback_clip=c2).rests_at() for c2 in feedback_clips] for name, settings in BUFFERS.items()
    }
    print(f"Where x rests without noise; the optimum is {OPTIMUM:g}. Closed form / run (sampled draws leave 0.02 to chance)\n")
    shown = [index for index, c2 in enumerate(feedback_clips) if c2 in (0.6, 1.2, 2.4)]
    rows = [[name, *[f"{WITHOUT[name][1]:.3f} / {at:.3f}"] * len(shown)] for name, at in without.items()]
    for name, found in runs.items():
        rows.append([name, *(f"{expected(name, feedback_clips[index]):.3f} / {found[index]:.3f}" for index in shown)])
    table(["form", *(f"C2 = {feedback_clips[index]:g}" for index in shown)], rows)

    print(f"Steps until x stays within {NEAR:g} of a target {DISTANCE:g} away that all shards share\n")
    paths = {name: Descent(**TOGETHER, **settings).run() for name, settings in ARRIVALS.items()}
    table(
        ["form", "steps", "goes beyond it by"],
        [[name, str(arrives(path)), f"{max(path.max() - DISTANCE, 0):.2f}"] for name, path in paths.items()],
    )

    print("With the noise of a proven epsilon 10 at delta 1e-5 (K = 1000, m = 32, B = 40, 2000 steps)\n")
    noise = {name: toy.noise_multiplier() for name, (toy, _) in PRICED.items()}
    stds = {name: toy.noise_std(noise[name]) for name, (toy, _) in PRICED.items()}
    unit = stds["plain clipping"]
    distances = {name: distance_with_noise(toy, noise[name]) for name, (toy, _) in PRICED.items()}
    table(
        ["form", "noise of the mean answer, relative", "distance from the optimum without noise", "with it"],
        [
            [name, f"{stds[name] / unit:.2f}", f"{abs(at - OPTIMUM):.2f}", f"{distances[name]:.2f}"]
            for name, (_, at) in PRICED.items()
        ],
    )
    draw(feedback_clips, without, runs, {name: (stds[name] / unit, distances[name]) for name in PRICED})


LOOKS = {
    "plain": ("#000000", "o"),
    "DP-SGD": ("#0072B2", "s"),
    "public": ("#009E73", "D"),
    "per_shard": ("#D55E00", "^"),
    "paper": ("#CC79A7", "v"),
    "DiceSGD": ("#56B4E9", "X"),
}
"""Okabe and Ito's colours, and a shape for each as well."""

SERIES: dict[str, tuple[list[str], tuple[int, int]]] = {
    "plain, C1 = 1 to 3.2": (["plain clipping", "plain clipping, C1 = 3.2"], (12, -2)),
    "DP-SGD, C1 = 1 to 3.2": (["DP-SGD", "DP-SGD, C1 = 3.2"], (8, -12)),
    "public, one memory": (["public, one memory"], (4, 10)),
    "plain, round robin": (["round robin: plain clipping", "round robin: plain, C1 = 3.2"], (8, -12)),
    "per_shard, C2 = 0.5 to 2.2": ([f"round robin: per_shard, C2 = {c2}" for c2 in ("0.5", "1", "2.2")], (10, 2)),
    "public, a memory a shard (2 visits)": (["round robin, m = 1: public, a memory a shard"], (10, -3)),
    "paper, C2 = 0.5 to 14": ([f"paper, C2 = {c2}" for c2 in ("0.5", "1", "2.2", "14.08")], (-118, 0)),
    "DiceSGD, C2 = 0.44": (["DiceSGD, C2 = 0.44"], (-112, -8)),
}
"""Right half of the figure: label, points of ``PRICED`` that a line joins, where the label stands beside the last one."""


def look(name: str) -> dict[str, Any]:
    """Colour and marker of a form or of one of its variants; hollow for a memory a shard."""
    colour, marker = next(LOOKS[family] for family in LOOKS if family in name)
    return {"color": colour, "marker": marker, "markerfacecolor": "white" if "a memory a shard" in name else colour}


def draw(
    feedback_clips: tuple[float, ...],
    without: dict[str, float],
    runs: dict[str, list[float]],
    priced: dict[str, tuple[float, float]],
) -> None:
    """Left: distance from the optimum over C2, lines by the closed forms and markers by runs. Right: what epsilon 10 leaves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12.5, 5), layout="constrained")

    grid = np.linspace(0, feedback_clips[-1], 200)
    for place, (name, at) in enumerate(without.items()):
        line = OPTIMUM - WITHOUT[name][1]
        left.axhline(line, color="#999999", linewidth=1, zorder=0)
        spread = [0.3 + 0.13 * place + 0.75 * number for number in range(4)]
        left.plot(spread, [abs(OPTIMUM - at)] * 4, linestyle="none", label=name, markersize=7, **look(name))
    for name, found in runs.items():
        left.plot(grid, [OPTIMUM - expected(name, c2) for c2 in grid], color=look(name)["color"], linewidth=1.5, zorder=0)
        left.plot(feedback_clips, [abs(OPTIMUM - at) for at in found], linestyle="none", label=name, markersize=7, **look(name))
    left.set(xlabel="C2, with C1 = 1", ylabel="distance from the optimum", ylim=(-0.02, 0.62))
    left.set_title("Bias without noise (K 10, m 2): closed forms and runs")
    left.legend(frameon=False, loc="upper right", fontsize=9, bbox_to_anchor=(1.0, 0.87))

    right.axhline(OPTIMUM - rest(C1), color="#999999", linewidth=1, zorder=0)
    right.text(330, 0.5, "bias of clipping to 1", ha="right", va="top", fontsize=9, color="#666666")
    for label, (names, offset) in SERIES.items():
        noises, distances = zip(*(priced[name] for name in names), strict=True)
        dashes = "--" if "round robin" in label else "-"
        right.loglog(noises, distances, linestyle=dashes, linewidth=1, markersize=8, **look(label))
        end = (noises[-1], distances[-1])
        right.annotate(label, end, xytext=offset, textcoords="offset points", fontsize=9, color=look(label)["color"])
    right.set(xlabel="noise of the mean answer, relative to plain clipping to 1", ylabel="distance from the optimum")
    right.set_xticks([1, 10, 100], ["1", "10", "100"])
    right.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    right.minorticks_off()
    right.set_title("Price at a proven epsilon 10 (K 1000, m 32, B 40, 2000 steps)")

    path = Path(__file__).with_name("feedback.png")
    figure.savefig(path, dpi=110)
    print(f"{path.name} is drawn.")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
