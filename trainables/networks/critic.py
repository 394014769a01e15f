"""GS-WGAN's spectral-norm projection critic (Chen, Orekondy & Fritz, 2020), several side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .layers import SNConv2d, SpectralNorm
from .stacked import check_rngs, from_channels, to_channels


class Critics(nn.Module):
    """``count`` independent critics; every parameter and buffer has a leading axis of ``count``, one slice a critic.

    One critic: three 5x5 convolutions of stride 2 to c, 2c and 4c channels with ReLU, flat to h, and the score of label y
    = w' h + b + E[y]' h; all weights spectrally normalised. With c = ``channels`` = 64 it has 1,071,105 weights for 28x28
    gray images of 10 classes and 1,041,537 for 32x32 RGB images of 2 (DPAC).

    No critic sees another's values: scores, gradients and the norms' vectors of one are the same bits whatever the images
    of the others. A part of a stack is ``load_state_dict({name: full[name][ids] for name in full})``.

    Deviations from the published code: those of ``SpectralNorm``; all convolutions of a stack are one grouped convolution,
    and the scores of all labels are computed and one is picked (the same function).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        channels: int = 64,
        count: int = 1,
        rngs: Sequence[torch.Generator] | None = None,
    ) -> None:
        """``shape`` is (C, H, W). Critic s is drawn from ``rngs[s]`` alone (None: all will be loaded), with the
        distributions that torch gives the published layers.

        Raises ``ValueError`` where there is not one generator a critic.
        """
        super().__init__()
        colours, height, width = shape
        flat = 4 * channels * -(-height // 8) * -(-width // 8)
        self.conv1 = SNConv2d(colours, channels, 5, stride=2, padding=2, stack=count)
        self.conv2 = SNConv2d(channels, 2 * channels, 5, stride=2, padding=2, stack=count)
        self.conv3 = SNConv2d(2 * channels, 4 * channels, 5, stride=2, padding=2, stack=count)
        self.linear = SpectralNorm((1, flat), stack=count)
        self.embedding = SpectralNorm((classes, flat), stack=count, bias=False)
        if rngs is not None:
            check_rngs(rngs, count)
            for layer in (self.conv1, self.conv2, self.conv3, self.linear):
                layer.draw(rngs)
            self.embedding.draw(rngs, normal=True)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scores ``[S, n]`` of ``images [S, n, C, H, W]`` and int64 ``labels [S, n]``; row s is critic s's."""
        assert self.linear.bias is not None
        hidden = to_channels(images)
        for layer in (self.conv1, self.conv2, self.conv3):
            hidden = nn.functional.relu(layer(hidden))
        features = from_channels(hidden, len(images)).flatten(2)
        # Row 0 is the label-free score, the others are the labels': one product of [S, n, flat] with [S, 1 + classes, flat].
        weight = torch.cat([self.linear.normalised(), self.embedding.normalised()], dim=1)
        products = features @ weight.mT
        by_label = products[..., 1:].gather(2, labels.unsqueeze(2)).squeeze(2)
        return products[..., 0] + self.linear.bias + by_label
