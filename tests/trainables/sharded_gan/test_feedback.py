"""Error feedback: each recursion, what a shard can move in steps that draw it and in those that do not, and resuming."""

import copy
import math

import numpy as np
import pytest
import torch

from trainables.privacy.mechanism import Phase, ShardMechanism
from trainables.privacy.sanitizer import PrivacyViolation, Sanitizer
from trainables.sharded_gan import feedback
from trainables.sharded_gan.bounds import carried_share, row_bound

C1, C2, RATE = 0.7, 0.4, 0.3
SHARDS, DRAWN, STEPS = 6, 2, 12
IMAGE = (2, 2)
SHARD = 3
FORMS = [(kind, schedule) for kind in ("none", "public") for schedule in ("sampled", "round_robin")]
FORMS += [("paper", "sampled"), ("paper", "persistent"), ("per_shard", "round_robin")]
HOSTILE = [math.nan, math.inf, -math.inf, 1e30, 3e38, -3e38]

forms = pytest.mark.parametrize(("kind", "schedule"), FORMS)


class Recorder(Sanitizer):
    """Keeps what it released; hands on a tensor that depends on the step alone where releases are forced."""

    def __init__(self, *arguments, forced=False, **options):
        super().__init__(*arguments, **options)
        self._forced = forced
        self.released = []

    def release_rows(self, answers, **bounds):
        self.released.append(super().release_rows(answers, **bounds))
        if not self._forced:
            return self.released[-1]
        return torch.randn(answers.shape[1:], generator=torch.Generator().manual_seed(len(self.released)))


def phase(kind, schedule, noise=0.0, shards=SHARDS, rows=3, drawn=DRAWN):
    mechanism = ShardMechanism(
        schedule=schedule,
        shards=shards,
        shards_per_step=drawn,
        release_shape=(rows, *IMAGE),
        noise_multiplier=noise,
        carried=carried_share(kind, C1, C2),
    )
    return Phase(mechanism=mechanism, steps=STEPS)


def built(kind, schedule, clip=C1):
    keyed = schedule == "round_robin"
    return feedback.build(kind, max_grad_norm=clip, feedback_clip=C2, feedback_rate=RATE, keyed=keyed)


class Run:
    """Steps of one form on given answers ``[T, K, B, ...]`` of all shards."""

    def __init__(self, kind, schedule, answers, *, noise=0.0, clip=C1, forced=False, draws=None, drawn=DRAWN):
        self.answers, self.draws = answers, draws
        self.form = built(kind, schedule, clip)
        declared = phase(kind, schedule, noise, *answers.shape[1:3], drawn)
        self.sanitizer = Recorder([declared], injected_seed=4, executed=[0], forced=forced)
        self.drawn, self.handed_on = [], []

    def advance(self, first=0, end=STEPS):
        for step in range(first, end):
            self.sanitizer.open_step(step, 0)
            shards = self.sanitizer.sample_shards()
            shards = shards if self.draws is None else np.array(self.draws[step])
            self.drawn.append(shards)
            self.handed_on.append(self.form.release(self.sanitizer, self.answers[step, shards], shards))
            self.sanitizer.close_step()
        return self

    def totals(self):
        """What was released, float64 ``[T, B, d]``; without noise these are the sums that the noise is meant to hide."""
        return torch.stack(self.sanitizer.released).double().flatten(2)


def random_answers(seed, spread=2.0, shards=SHARDS, rows=3):
    """Rows of very different lengths, the longest far beyond the clip."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(spread * rng.standard_normal((STEPS, shards, rows, 1, 1)))
    return torch.from_numpy(rng.standard_normal((STEPS, shards, rows, *IMAGE)) * lengths).float()


def silence(shards=SHARDS):
    return torch.zeros(STEPS, shards, 3, *IMAGE)


# --- the recursions -------------------------------------------------------------------------------------------------------


def clipped(row, bound):
    return row * min(1.0, bound / np.linalg.norm(row)) if row.any() else row


def restated(kind, keyed, answers, drawn, noise):
    """Every image by itself, as the module's first lines say it, in float64; what each step hands on, ``[T, B, d]``."""
    buffers, found = {}, np.zeros_like(noise)
    for image in range(answers.shape[2]):
        for step, shards in enumerate(drawn):
            rows = [answers[step, shard, image] for shard in shards]
            key = (image, shards[0] if keyed else 0)
            kept = buffers.get(key, np.zeros(4))
            if kind == "none":
                found[step, image] = sum(clipped(row, C1) for row in rows) + noise[step, image]
            elif kind == "paper":
                value = sum(clipped(row, C1) for row in rows) + clipped(kept, C2)
                buffers[key] = kept + sum(rows) - value
                found[step, image] = value + noise[step, image]
            elif kind == "public":
                release = sum(clipped(row - kept, C1) for row in rows) + noise[step, image]
                found[step, image] = len(rows) * kept + release
                buffers[key] = kept + RATE * release / len(rows)
            else:
                for shard, row in zip(shards, rows, strict=True):
                    error = buffers.get((image, shard), np.zeros(4))
                    value = clipped(row, C1) + clipped(error, C2)
                    buffers[image, shard] = error + row - value
                    found[step, image] += value
                found[step, image] += noise[step, image]
    return found


@forms
@pytest.mark.parametrize(("shards", "drawn"), [(6, 2), (36, 18)])
def test_the_recursion_is_the_one_that_is_stated(kind, schedule, shards, drawn):
    answers = random_answers(0, shards=shards)
    run = Run(kind, schedule, answers, noise=0.2, drawn=drawn).advance()
    # The same injected noise alone, in units of another bound.
    noise = Run("none", schedule, silence(shards), noise=0.2, drawn=drawn).advance().totals() * (row_bound(kind, C1, C2) / C1)
    expected = restated(kind, schedule == "round_robin", answers.double().flatten(3).numpy(), run.drawn, noise.numpy())
    torch.testing.assert_close(torch.stack(run.handed_on).double().flatten(2), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", ["sampled", "round_robin"])
def test_a_public_memory_changes_nothing_where_the_clip_cuts_nothing_off(schedule):
    answers = random_answers(1, spread=0.2)
    plain, public = (Run(kind, schedule, answers, noise=0.01, clip=100.0).advance() for kind in ("none", "public"))
    torch.testing.assert_close(torch.stack(public.handed_on), torch.stack(plain.handed_on), rtol=1e-5, atol=1e-5)
    assert (public.sanitizer.released[-1] - plain.sanitizer.released[-1]).abs().max() > 0.01, "it was asked for differences"


def test_what_was_cut_off_comes_back():
    """One long answer, then silence: the forms with a buffer release all of it, C2 a step; without one the rest is lost."""
    answers = silence()
    answers[0, :, :, 0, 0] = 1.5
    for kind, schedule, expected in (
        ("none", "round_robin", 2 * C1),
        ("per_shard", "round_robin", 3.0),
        ("paper", "sampled", 3.0),
    ):
        run = Run(kind, schedule, answers, draws=[[0, 1]] * STEPS).advance()
        assert run.totals().sum(dim=0)[:, 0].tolist() == pytest.approx([expected] * 3, rel=1e-5)


# --- what one shard can move ----------------------------------------------------------------------------------------------


def neighbours():
    """Answers with those of one shard replaced, in 100 ways at once, an image each: by others as random, huge or no numbers."""
    one, other = random_answers(0, rows=100), random_answers(0, rows=100)
    other[:, SHARD] = random_answers(1, rows=100)[:, SHARD]
    rng = np.random.default_rng(2)
    for answers in (one, other):
        for row in rng.choice(100, 50, replace=False):
            answers[rng.integers(STEPS), SHARD, row] = float(rng.choice(HOSTILE))
    return one, other


def planted(sign):
    """Shard 3 pulls every image one way with all its might; nobody else says anything."""
    answers = silence()
    answers[:, SHARD, :, 1, 0] = sign * 50.0
    return answers


def moved(kind, schedule, one, other):
    """Largest distance of a row's sum between the two runs, in steps that draw the shard and in those that do not."""
    rng = np.random.default_rng(7)
    draws = None if schedule == "round_robin" else [np.sort(rng.permutation(SHARDS)[:DRAWN]) for _ in range(STEPS)]
    # Equal histories, as for an adversary who knows all releases so far.
    runs = [Run(kind, schedule, answers, forced=True, draws=draws).advance() for answers in (one, other)]
    distance = (runs[0].totals() - runs[1].totals()).norm(dim=2).amax(dim=1)
    drawn = torch.tensor([SHARD in shards for shards in runs[0].drawn])
    assert drawn.any()
    assert not drawn.all()
    return float(distance[drawn].max()), float(distance[~drawn].max())


def declared(kind):
    """Sensitivity of a row: in steps that draw the shard, and in others."""
    mechanism = phase(kind, "sampled").mechanism
    drawn = 2 * row_bound(kind, C1, C2)
    return drawn, mechanism.carried * drawn


@forms
def test_a_shard_moves_no_row_by_more_than_declared(kind, schedule):
    drawn, undrawn = moved(kind, schedule, *neighbours())
    assert 0 < drawn <= declared(kind)[0] * (1 + 1e-6)
    assert undrawn <= declared(kind)[1] * (1 + 1e-6)


@forms
def test_the_declared_bounds_are_attained(kind, schedule):
    assert moved(kind, schedule, planted(1), planted(-1)) == pytest.approx(declared(kind), rel=1e-4)


def test_bounds_of_a_row():
    assert [declared(kind) for kind in ("none", "public")] == [(2 * C1, 0)] * 2
    assert declared("per_shard") == (2 * (C1 + C2), 0)
    assert declared("paper") == pytest.approx((2 * (C1 + C2), 2 * C2))


@pytest.mark.parametrize("schedule", ["sampled", "round_robin"])
def test_equal_releases_leave_public_memories_equal_to_the_bit_whatever_the_data(schedule):
    states, handed_on = [], []
    for answers in (random_answers(0), planted(1), torch.full_like(silence(), math.nan)):
        run = Run("public", schedule, answers, forced=True).advance()
        states.append(run.form.state_dict()["buffers"])
        handed_on.append(torch.stack(run.handed_on))
    assert list(states[0]) == ([0] if schedule == "sampled" else [0, 2, 4])
    for state, tensors in zip(states, handed_on, strict=True):
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[key], states[0][key]) for key in state)
        assert torch.equal(tensors, handed_on[0])


def test_a_buffer_a_shard_needs_public_draws():
    with pytest.raises(ValueError, match="schedule: round_robin"):
        built("per_shard", "sampled")


def test_a_shared_buffer_that_is_not_declared_releases_nothing():
    run = Run("paper", "sampled", random_answers(0))
    run.sanitizer = Recorder([phase("none", "sampled")])
    with pytest.raises(PrivacyViolation, match="would carry"):
        run.advance()


# --- numbers that are none, and resuming ----------------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_row_spoils_no_buffer(kind, schedule, value):
    """Rows that are not finite count as zeros; finite ones of any length leave every release and buffer finite."""
    answers = random_answers(2)
    answers[:, SHARD, 1] = value
    run = Run(kind, schedule, answers).advance()
    buffers = run.form.state_dict()["buffers"].values()
    assert all(torch.isfinite(tensor).all() for tensor in [*buffers, *run.handed_on])
    if not math.isfinite(value):
        answers[:, SHARD, 1] = 0.0
        silent = Run(kind, schedule, answers).advance()
        assert torch.equal(torch.stack(run.handed_on), torch.stack(silent.handed_on))


@forms
def test_a_run_that_goes_on_from_its_state_is_the_run_that_never_stopped(kind, schedule):
    answers = random_answers(3)
    whole = Run(kind, schedule, answers, noise=0.5)
    whole.advance(0, 7)
    state = copy.deepcopy(whole.form.state_dict())
    taken = whole.form.state_dict()
    whole.advance(7)
    resumed = Run(kind, schedule, answers, noise=0.5)
    resumed.form.load_state_dict(taken)
    resumed.advance(7)
    assert torch.equal(torch.stack(resumed.handed_on), torch.stack(whole.handed_on[7:]))
    assert all(torch.equal(taken["buffers"][key], state["buffers"][key]) for key in state["buffers"]), "a state is a copy"
