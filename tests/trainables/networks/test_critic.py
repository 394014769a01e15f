import pytest
import torch
from torch.nn import functional

from trainables.coins import torch_coins
from trainables.networks.critic import Critics

GRAY, COLOUR = (1, 28, 28), (3, 32, 32)


def stack_of(shards, shape=GRAY, classes=10, channels=4):
    rngs = [torch_coins(0, "critic", shard) for shard in shards]
    return Critics(shape, classes, channels=channels, count=len(shards), rngs=rngs)


def batch_of(shards, shape=GRAY, classes=10, n=5):
    images = torch.stack([torch.rand((n, *shape), generator=torch_coins(0, "images", shard)) for shard in shards])
    labels = torch.stack([torch.randint(classes, (n,), generator=torch_coins(0, "labels", shard)) for shard in shards])
    return images, labels


def penalised_gradients(critics, images, labels):
    """Scores ``[S, n]``, their gradients for the images, and the weights' gradients of a loss with WGAN-GP's penalty."""
    images = images.clone().requires_grad_()
    scores = critics(images, labels)
    (slopes,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    loss = scores.sum() + 10 * (slopes.flatten(2).norm(dim=2) - 1).square().sum()
    names, parameters = zip(*critics.named_parameters(), strict=True)
    return scores.detach(), slopes.detach(), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize(("shape", "classes", "published"), [(GRAY, 10, 1_071_105), (COLOUR, 2, 1_041_537)])
def test_the_published_numbers_of_weights(shape, classes, published):
    critics = Critics(shape, classes, count=3)
    assert sum(parameter.numel() for parameter in critics.parameters()) == 3 * published


def published_critic(state, images, labels):
    """The score ``[n]`` of one critic in plain functions, from its tensors before the forward: one power iteration a layer."""

    def normalised(name):
        weight, u = state[f"{name}.weight"], state[f"{name}.u"]
        matrix = weight.reshape(len(weight), -1)
        v = (matrix.T @ u).detach()
        v = v / v.norm()
        u = (matrix @ v).detach()
        u = u / u.norm()
        return weight / (u @ matrix @ v)

    hidden = images
    for name in ("conv1", "conv2", "conv3"):
        hidden = functional.conv2d(hidden, normalised(name), state[f"{name}.bias"], stride=2, padding=2).relu()
    hidden = hidden.flatten(1)
    score = functional.linear(hidden, normalised("linear"), state["linear.bias"])
    return score[:, 0] + (functional.embedding(labels, normalised("embedding")) * hidden).sum(dim=1)


@pytest.mark.parametrize(("shape", "classes"), [(GRAY, 10), (COLOUR, 2), ((1, 8, 8), 3)])
def test_every_critic_of_a_stack_is_the_published_function(shape, classes):
    shards = range(3)
    critics = stack_of(shards, shape, classes).double()
    images, labels = batch_of(shards, shape, classes)
    images = images.double()
    before = {name: tensor.detach().clone() for name, tensor in critics.state_dict().items()}
    found, slopes, gradients = penalised_gradients(critics, images, labels)
    for shard in shards:
        state = {name: tensor[shard] for name, tensor in before.items()}
        weights = {name: state[name].requires_grad_() for name in gradients}
        own = images[shard].clone().requires_grad_()
        scores = published_critic(state, own, labels[shard])
        (expected,) = torch.autograd.grad(scores.sum(), own, create_graph=True)
        loss = scores.sum() + 10 * (expected.flatten(1).norm(dim=1) - 1).square().sum()
        torch.testing.assert_close(found[shard], scores.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(slopes[shard], expected.detach(), rtol=0, atol=1e-12)
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            torch.testing.assert_close(gradients[name][shard], gradient, rtol=1e-10, atol=1e-10, msg=name)
            assert gradient.abs().max() > 0


def test_the_norms_follow_the_published_function_over_several_forwards():
    critics = stack_of([0]).double()
    images, labels = batch_of([0])
    for _ in range(3):
        state = {name: tensor[0].clone() for name, tensor in critics.state_dict().items()}
        found = critics(images.double(), labels)
        torch.testing.assert_close(found[0], published_critic(state, images[0].double(), labels[0]), rtol=0, atol=1e-12)
        with torch.no_grad():
            for parameter in critics.parameters():
                parameter.mul_(1.1).add_(0.01)


def test_a_critic_is_the_same_bits_alone_or_in_any_stack():
    stack = stack_of([7, 3, 5]).state_dict()
    alone = stack_of([3]).state_dict()
    pair = stack_of([5, 3]).state_dict()
    for name, tensor in stack.items():
        assert torch.equal(tensor[1], alone[name][0]), name
        assert torch.equal(tensor[[2, 1]], pair[name]), name
        assert not torch.equal(tensor[0], tensor[1]), name


def test_a_part_of_a_stack_scores_as_in_the_whole():
    shards = [0, 1, 2, 3]
    critics = stack_of(shards)
    images, labels = batch_of(shards)
    part = Critics(GRAY, 10, channels=4, count=2)
    part.load_state_dict({name: tensor[[3, 1]] for name, tensor in critics.state_dict().items()})
    for _ in range(2):  # the second one uses the norms' vectors that the first one left
        whole = critics(images, labels)
        torch.testing.assert_close(part(images[[3, 1]], labels[[3, 1]]), whole[[3, 1]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("planted", [0.5, float("nan"), float("inf")])
def test_another_shards_images_do_not_change_a_bit(planted):
    shards = [0, 1, 2]
    images, labels = batch_of(shards)
    changed, other_labels = images.clone(), labels.clone()
    changed[1, 2] = planted
    other_labels[1] = (labels[1] + 1) % 10
    twins = stack_of(shards), stack_of(shards)
    one, other = penalised_gradients(twins[0], images, labels), penalised_gradients(twins[1], changed, other_labels)
    for kept in (0, 2):
        assert torch.equal(one[0][kept], other[0][kept])
        assert torch.equal(one[1][kept], other[1][kept])
        for name, gradient in one[2].items():
            assert torch.equal(gradient[kept], other[2][name][kept]), name
        for name, tensor in twins[0].state_dict().items():
            assert torch.equal(tensor[kept], twins[1].state_dict()[name][kept]), name
    assert not torch.equal(one[0][1], other[0][1])


def test_one_generator_a_critic_is_needed():
    with pytest.raises(ValueError, match="a stack of 3 networks needs 3 generators of initial weights, not 2"):
        Critics(GRAY, 10, channels=2, count=3, rngs=[torch_coins(0, "critic", shard) for shard in range(2)])
