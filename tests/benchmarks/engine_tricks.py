"""Every trick of the engine alone: the same work with and without it, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from unittest import mock

import torch
from parts import Timing, in_turn
from published_step import BATCH
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from trainables.networks import layers
from trainables.networks.averaged import AveragedGenerator
from trainables.networks.classifier import CNN, MLP
from trainables.networks.critic import Critics
from trainables.networks.resnet import ResNetGenerator
from trainables.sharded_gan.critics import critic_loss

SHAPE, CLASSES, Z_DIM = (1, 28, 28), 10, 10


def measure_generator(*, channels: int, rounds: int, compiled: bool = False) -> None:
    """Print what tricks on the generator gain, each alone: seconds without over seconds with it."""
    print(f"\nOne trick at a time, generator of {channels} channels, batch {BATCH}: seconds without / with = ratio")
    generator = _generator(channels)
    forward_backward, fakes = _uses(generator)

    def in_bfloat16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            images = generator(*_asked())
        images.float().sum().backward()

    for name, run in {"forward + backward": forward_backward, "fakes": fakes}.items():
        _compare(f"freed memory kept, {name}", run, run, rounds, plain={"without"})

    def upsampled_in_full() -> None:
        with mock.patch.object(layers, "_upsample_conv2d", _upsample_then_convolve):
            forward_backward()

    def fakes_with_graph() -> None:
        generator(*_asked())

    _compare("sub-pixel convolution, forward + backward", upsampled_in_full, forward_backward, rounds)
    _compare("no graph for fakes", fakes_with_graph, fakes, rounds)
    _compare("generator_precision: bfloat16 (not equal), forward + backward", forward_backward, in_bfloat16, rounds)
    if compiled:
        _compile(channels, rounds)


def measure_untaken(*, channels: int, rounds: int) -> None:
    """The same for what was tried and is not done."""
    print(f"\nTried and left out, generator of {channels} channels, batch {BATCH}: seconds without / with = ratio")
    generator = _generator(channels)
    forward_backward, fakes = _uses(generator)

    def five_fakes() -> None:
        for _ in range(5):
            fakes()

    _compare("spectral norm once a step, five fakes", five_fakes, _weights_once(generator, five_fakes), rounds)
    last = _generator(channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _compare("channels last", forward_backward, _uses(last)[0], rounds)
    _optimiser_tricks(channels, rounds)
    for kind in (CNN, MLP):
        _classifiers(kind, 4, rounds)


def _uses(generator: torch.nn.Module) -> tuple[Callable[[], None], Callable[[], None]]:
    """(forward and backward, images without a graph) of one batch."""

    def forward_backward() -> None:
        generator(*_asked()).sum().backward()

    def fakes() -> None:
        generator.generate(*_asked())

    return forward_backward, fakes


def _asked() -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    return torch.rand(BATCH, Z_DIM), torch.arange(BATCH) % CLASSES, torch.Generator()


def _compile(channels: int, rounds: int) -> None:
    for number, name in enumerate(("forward + backward", "fakes")):

        def plain(number: int = number) -> Callable[[], None]:
            return _uses(_generator(channels))[number]

        def compiled(number: int = number, name: str = name) -> Callable[[], None]:
            generator = _generator(channels)
            generator.compile(dynamic=False)
            run = _uses(generator)[number]
            began = time.process_time()
            run()
            print(f"  generator_compiled, {name}: {time.process_time() - began:.0f} s to compile", flush=True)
            return run

        _show(f"generator_compiled, {name}", in_turn({"without": plain, "with": compiled}, rounds))


def measure_critics(*, stacks: Sequence[int], rounds: int) -> None:
    """The same for an update of critics."""
    print("\nOne trick at a time, one update of every critic: seconds without / with = ratio")
    _critic_passes(rounds)
    for width, batch in ((8, 16), (64, BATCH)):
        for count in stacks:
            _stacked(width, batch, count, rounds)


def _optimiser_tricks(channels: int, rounds: int) -> None:
    generator = _generator(channels)
    parameters = list(generator.parameters())
    for parameter in parameters:
        parameter.grad = torch.rand_like(parameter)

    def adam(**how: bool) -> Callable[[], None]:
        return torch.optim.Adam(parameters, lr=1e-4, **how).step

    plain = adam(foreach=False)
    _compare("Adam foreach", plain, adam(foreach=True), rounds)
    _compare("Adam fused", plain, adam(fused=True), rounds)
    network = AveragedGenerator(generator, 1e-4)
    kept = list(network.average.parameters())

    @torch.no_grad()
    def foreach() -> None:
        torch._foreach_lerp_(kept, parameters, 0.001)

    _compare("average foreach", lambda: network.follow(0.999), foreach, rounds)


def _classifiers(kind: type[nn.Module], count: int, rounds: int, updates: int = 20) -> None:
    """Classifiers of ``count`` evaluations: updates one after the other, and of stacked weights through vmap."""
    networks = [kind(SHAPE, CLASSES).to(memory_format=torch.channels_last) for _ in range(count)]  # type: ignore[call-overload]
    images, labels = torch.rand(count, 64, *SHAPE), torch.randint(CLASSES, (count, 64))
    found, _ = stack_module_state(networks)
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in found.items()}
    skeleton = kind(SHAPE, CLASSES).to("meta")

    def loss(weights: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional_call(skeleton, weights, (images,)), labels)

    def one_by_one() -> None:
        for network, pixels, wanted in zip(networks, images, labels, strict=True):
            last = pixels.contiguous(memory_format=torch.channels_last)
            _updates(network.parameters(), lambda: functional.cross_entropy(network(last), wanted), updates)  # noqa: B023

    def together() -> None:
        _updates(weights.values(), lambda: vmap(loss)(weights, images, labels).sum(), updates)

    _compare(f"{count} evaluation classifiers ({kind.__name__}) stacked", one_by_one, together, rounds)


def _updates(parameters: Iterable[torch.Tensor], loss: Callable[[], torch.Tensor], count: int) -> None:
    adam = torch.optim.Adam(parameters, lr=1e-3)
    for _ in range(count):
        adam.zero_grad()
        loss().backward()
        adam.step()


def _critic_passes(rounds: int) -> None:
    critics, inputs = _critics(64, 1), _critic_inputs(1, BATCH)
    three = _critic_update(critics, critic_loss, inputs)
    _compare("critic: real and fake in one pass", three, _critic_update(critics, _two_passes, inputs), rounds)
    _compare("critic: all three in one pass", three, _critic_update(critics, _one_pass, inputs), rounds)


def _stacked(channels: int, batch: int, count: int, rounds: int) -> None:
    each = [(_critics(channels, 1), _critic_inputs(1, batch)) for _ in range(count)]
    updates = [_critic_update(critics, critic_loss, inputs) for critics, inputs in each]
    together = _critic_update(_critics(channels, count), critic_loss, _critic_inputs(count, batch))

    def one_by_one() -> None:
        for update in updates:
            update()

    _compare(f"{count} critics of {channels} channels stacked, batch {batch}", one_by_one, together, rounds)


def _compare(
    name: str,
    without: Callable[[], object],
    with_it: Callable[[], object],
    rounds: int,
    plain: Container[str] = (),
) -> None:
    _show(name, in_turn({"without": lambda: without, "with": lambda: with_it}, rounds, plain=plain))


def _show(name: str, timings: Mapping[str, Timing]) -> None:
    before, after = timings["without"].seconds, timings["with"].seconds
    print(f"  {name:50s} {before:8.4f} / {after:8.4f} = x{before / after:.2f}", flush=True)


def _generator(channels: int) -> ResNetGenerator:
    rng = torch.Generator().manual_seed(0)
    return ResNetGenerator(SHAPE, CLASSES, z_dim=Z_DIM, channels=channels, noise_injection=0.0, rng=rng)


def _critics(channels: int, count: int) -> Critics:
    rngs = [torch.Generator().manual_seed(index) for index in range(count)]
    return Critics(SHAPE, CLASSES, channels=channels, count=count, rngs=rngs)


def _critic_inputs(count: int, batch: int) -> tuple[torch.Tensor, ...]:
    real, fake = torch.rand(2, count, batch, *SHAPE)
    return real, fake, torch.randint(CLASSES, (count, batch)), torch.rand(count, batch, 1, 1, 1)


def _critic_update(critics: Critics, loss: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    adam = torch.optim.Adam(critics.parameters(), lr=1e-4)

    def update() -> None:
        adam.zero_grad(set_to_none=True)
        total = loss(critics, *inputs, gradient_penalty=10.0, drift=1e-3).sum()
        total.backward(inputs=list(critics.parameters()))
        adam.step()

    return update


def _two_passes(
    critics: Critics,
    real: torch.Tensor,
    fake: torch.Tensor,
    labels: torch.Tensor,
    mix: torch.Tensor,
    *,
    gradient_penalty: float,
    drift: float,
) -> torch.Tensor:
    """``critic_loss`` with the real and the generated images in one pass, the points between them in another."""
    on_real, on_fake = critics(torch.cat([real, fake], dim=1), torch.cat([labels, labels], dim=1)).chunk(2, dim=1)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    return _loss(on_real, on_fake, critics(between, labels), between, gradient_penalty, drift)


def _one_pass(
    critics: Critics,
    real: torch.Tensor,
    fake: torch.Tensor,
    labels: torch.Tensor,
    mix: torch.Tensor,
    *,
    gradient_penalty: float,
    drift: float,
) -> torch.Tensor:
    """``critic_loss`` with all of it in one pass; the slope's graph then runs through the real and the generated images too."""
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    scores = critics(torch.cat([real, fake, between], dim=1), labels.repeat(1, 3))
    on_real, on_fake, on_between = scores.chunk(3, dim=1)
    return _loss(on_real, on_fake, on_between, between, gradient_penalty, drift)


def _loss(
    on_real: torch.Tensor,
    on_fake: torch.Tensor,
    on_between: torch.Tensor,
    between: torch.Tensor,
    gradient_penalty: float,
    drift: float,
) -> torch.Tensor:
    (slope,) = torch.autograd.grad(on_between.sum(), between, create_graph=True)
    penalty = (slope.flatten(2).norm(dim=2) - 1).square().mean(dim=1)
    loss = on_fake.mean(dim=1) - on_real.mean(dim=1) + gradient_penalty * penalty
    return loss + drift * on_real.square().mean(dim=1)


def _upsample_then_convolve(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, taps: torch.Tensor
) -> torch.Tensor:
    upsampled = functional.interpolate(features, scale_factor=2.0, mode="nearest")
    return functional.conv2d(upsampled, weight, bias, padding=1)


def _weights_once(generator: ResNetGenerator, run: Callable[[], None]) -> Callable[[], None]:
    """``run`` with every spectral norm of ``generator`` computed once before it, as it is in evaluation mode."""
    norms = [layer for layer in generator.modules() if isinstance(layer, layers.SpectralNorm)]

    def once() -> None:
        generator.eval()
        with torch.no_grad():
            weights = [layer.normalised() for layer in norms]
        for layer, weight in zip(norms, weights, strict=True):
            layer.normalised = lambda weight=weight: weight  # type: ignore[method-assign]
        try:
            run()
        finally:
            for layer in norms:
                del layer.normalised
            generator.train()

    return once
