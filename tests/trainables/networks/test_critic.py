import pytest
import torch
from torch.nn import functional

from trainables.coins import torch_coins
from trainables.networks.critic import Classifiers, Critics

GRAY, COLOUR, LARGE = (1, 28, 28), (3, 32, 32), (3, 64, 64)
NETWORKS = [Critics, Classifiers]


def stack_of(shards, shape=GRAY, classes=10, channels=4, networks=Critics):
    rngs = [torch_coins(0, "critic", shard) for shard in shards]
    return networks(shape, classes, channels=channels, count=len(shards), rngs=rngs)


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


@pytest.mark.parametrize(
    ("networks", "shape", "classes", "weights"),
    [
        (Critics, GRAY, 10, 1_071_105),
        (Critics, COLOUR, 2, 1_041_537),
        (Critics, LARGE, 2, 4_331_137),
        (Classifiers, GRAY, 10, 1_067_018),
        (Classifiers, COLOUR, 2, 1_037_442),
        (Classifiers, LARGE, 2, 4_322_946),
    ],
)
def test_the_numbers_of_weights(networks, shape, classes, weights):
    stack = networks(shape, classes, count=3)
    assert sum(parameter.numel() for parameter in stack.parameters()) == 3 * weights


def published_features(state, images):
    """Features ``[n, flat]`` of one network in plain functions, from its tensors before the forward; and its normalisation."""

    def normalised(name):
        weight, u = state[f"{name}.weight"], state[f"{name}.u"]
        matrix = weight.reshape(len(weight), -1)
        v = (matrix.T @ u).detach()
        v = v / v.norm()
        u = (matrix @ v).detach()
        u = u / u.norm()
        return weight / (u @ matrix @ v)

    hidden = images
    for name in ("conv1", "conv2", "conv3", "conv4") if images.shape[-1] == 64 else ("conv1", "conv2", "conv3"):
        hidden = functional.conv2d(hidden, normalised(name), state[f"{name}.bias"], stride=2, padding=2).relu()
    return hidden.flatten(1), normalised


def published_critic(state, images, labels):
    hidden, normalised = published_features(state, images)
    score = functional.linear(hidden, normalised("linear"), state["linear.bias"])
    return score[:, 0] + (functional.embedding(labels, normalised("embedding")) * hidden).sum(dim=1)


def published_classifier(state, images, labels):
    hidden, normalised = published_features(state, images)
    outputs = functional.linear(hidden, normalised("linear"), state["linear.bias"])
    classes = outputs.shape[1]
    weights = torch.full((len(labels), classes), -1 / (classes - 1), dtype=outputs.dtype)
    weights[torch.arange(len(labels)), labels] = 1
    return torch.einsum("nj,nj->n", outputs, weights)


PUBLISHED = {Critics: published_critic, Classifiers: published_classifier}


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize(("shape", "classes"), [(GRAY, 10), (COLOUR, 2), ((1, 8, 8), 3), (LARGE, 2)])
def test_every_network_of_a_stack_is_the_published_function(networks, shape, classes):
    shards = range(3)
    published = PUBLISHED[networks]
    critics = stack_of(shards, shape, classes, networks=networks, channels=2 if shape == LARGE else 4).double()
    images, labels = batch_of(shards, shape, classes)
    images = images.double()
    before = {name: tensor.detach().clone() for name, tensor in critics.state_dict().items()}
    found, slopes, gradients = penalised_gradients(critics, images, labels)
    for shard in shards:
        state = {name: tensor[shard] for name, tensor in before.items()}
        weights = {name: state[name].requires_grad_() for name in gradients}
        own = images[shard].clone().requires_grad_()
        scores = published(state, own, labels[shard])
        (expected,) = torch.autograd.grad(scores.sum(), own, create_graph=True)
        loss = scores.sum() + 10 * (expected.flatten(1).norm(dim=1) - 1).square().sum()
        torch.testing.assert_close(found[shard], scores.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(slopes[shard], expected.detach(), rtol=0, atol=1e-12)
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            torch.testing.assert_close(gradients[name][shard], gradient, rtol=1e-10, atol=1e-10, msg=name)
            assert gradient.abs().max() > 0


@pytest.mark.parametrize("networks", NETWORKS)
def test_the_norms_follow_the_published_function_over_several_forwards(networks):
    critics, published = stack_of([0], networks=networks).double(), PUBLISHED[networks]
    images, labels = batch_of([0])
    for _ in range(3):
        state = {name: tensor[0].clone() for name, tensor in critics.state_dict().items()}
        found = critics(images.double(), labels)
        torch.testing.assert_close(found[0], published(state, images[0].double(), labels[0]), rtol=0, atol=1e-12)
        with torch.no_grad():
            for parameter in critics.parameters():
                parameter.mul_(1.1).add_(0.01)


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("shape", [GRAY, LARGE])
def test_a_network_is_the_same_bits_alone_or_in_any_stack(networks, shape):
    stack, alone, pair = (stack_of(shards, shape, networks=networks).state_dict() for shards in ([7, 3, 5], [3], [5, 3]))
    for name, tensor in stack.items():
        assert torch.equal(tensor[1], alone[name][0]), name
        assert torch.equal(tensor[[2, 1]], pair[name]), name
        assert not torch.equal(tensor[0], tensor[1]), name


@pytest.mark.parametrize("networks", NETWORKS)
def test_a_part_of_a_stack_scores_as_in_the_whole(networks):
    shards = [0, 1, 2, 3]
    critics = stack_of(shards, networks=networks)
    images, labels = batch_of(shards)
    part = networks(GRAY, 10, channels=4, count=2)
    part.load_state_dict({name: tensor[[3, 1]] for name, tensor in critics.state_dict().items()})
    for _ in range(2):  # the second one uses the norms' vectors that the first one left
        whole = critics(images, labels)
        torch.testing.assert_close(part(images[[3, 1]], labels[[3, 1]]), whole[[3, 1]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("planted", [0.5, float("nan"), float("inf")])
def test_another_shards_images_do_not_change_a_bit(networks, planted):
    shards = [0, 1, 2]
    images, labels = batch_of(shards)
    changed, other_labels = images.clone(), labels.clone()
    changed[1, 2] = planted
    other_labels[1] = (labels[1] + 1) % 10
    twins = stack_of(shards, networks=networks), stack_of(shards, networks=networks)
    one, other = penalised_gradients(twins[0], images, labels), penalised_gradients(twins[1], changed, other_labels)
    for kept in (0, 2):
        assert torch.equal(one[0][kept], other[0][kept])
        assert torch.equal(one[1][kept], other[1][kept])
        for name, gradient in one[2].items():
            assert torch.equal(gradient[kept], other[2][name][kept]), name
        for name, tensor in twins[0].state_dict().items():
            assert torch.equal(tensor[kept], twins[1].state_dict()[name][kept]), name
    assert not torch.equal(one[0][1], other[0][1])


@pytest.mark.parametrize("networks", NETWORKS)
def test_one_generator_a_network_is_needed(networks):
    with pytest.raises(ValueError, match="a stack of 3 networks needs 3 generators of initial weights, not 2"):
        networks(GRAY, 10, channels=2, count=3, rngs=[torch_coins(0, "critic", shard) for shard in range(2)])


def test_the_names_of_the_tensors_are_those_of_kept_stages():
    layers = ["conv1", "conv2", "conv3", "linear"]
    tensors = [f"{layer}.{tensor}" for layer in layers for tensor in ("weight", "bias", "u", "v")]
    embedding = [f"embedding.{tensor}" for tensor in ("weight", "u", "v")]
    assert list(Classifiers(GRAY, 10, channels=2).state_dict()) == tensors
    assert list(Critics(GRAY, 10, channels=2).state_dict()) == tensors + embedding


def test_the_scores_of_all_labels_add_up_to_nothing():
    """Each output weighs +1 once and -1 / (classes - 1) for all other labels: an image cannot raise all of its scores."""
    classifiers = stack_of([0], networks=Classifiers).eval().double()
    images, _ = batch_of([0], n=4)
    by_label = torch.stack([classifiers(images.double(), torch.full((1, 4), label)) for label in range(10)])
    assert by_label.abs().max() > 0.01
    torch.testing.assert_close(by_label.sum(dim=0), torch.zeros(1, 4, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [0, 1])
def test_one_class_cannot_be_told_apart(classes):
    with pytest.raises(ValueError, match=f"tells classes apart and needs at least 2 of them, not {classes}"):
        Classifiers(GRAY, classes)
