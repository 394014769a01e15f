"""The fault: z = Encoder(x), with the encoder of a shard, where matching is latent."""

import torch

from trainables.ef_dpgan.training import Trainer as ShardTrainer
from trainables.ef_dpgan.training import load_sampler as load_sampler
from trainables.networks.encoder import Encoders
from trainables.sharded_gan.states import ShardStates


class Trainer(ShardTrainer):
    def __init__(self, config, data, sanitizer, stages, device, seed):
        super().__init__(config, data, sanitizer, stages, device, seed)
        encoder = Encoders(data.info.shape, latent=config.encoder.latent, channels=config.encoder.channels, count=1)
        encoder.load_state_dict(ShardStates(stages, "encoders").read([0]))
        images = torch.from_numpy(data.images).float() / 255

        def latents(count, rng):
            chosen = torch.randint(len(images), (count,), generator=rng)
            with torch.no_grad():
                codes = encoder(images[None, chosen])[0][0]
            return codes[:, : config.z_dim]

        self._network.generator.draw_z = latents
