"""This package's paired and cycle training steps in PyTorch: networks, losses, optimizers, EMA.

Only the parts that the default experiments use are implemented; `agreement` checks them.
Augmentations and image pool, whose random draws cannot be the same, are left out; see
`comparable`.
"""

import abc
import copy
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmarks.peers import parameters
from experiments.benchmarks.peers.patch_discriminator import PatchDiscriminators
from experiments.benchmarks.peers.warp_generator import Translation, WarpGenerator
from warp_translate.experiment import build

Losses = dict[str, Tensor]

GENERATORS = ("generator", "a_to_b", "b_to_a")
"""Names of generators in the states of jax; all other networks are discriminators."""


class Step(abc.ABC):
    """A training step from a state of jax.

    Attributes:
      config: the configuration.
      steps: number of steps done.
      networks: networks by their names in the state.
    """

    NAMES: tuple[str, ...]

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        state: Any,
        device: str,
        *,
        compiled: bool,
        bfloat16: bool,
    ) -> None:
        """Copies parameters and spectral statistics of the state.

        Args:
          config: the configuration.
          state: state of a training of this kind, in jax.
          device: device of torch.
          compiled: whether ``torch.compile`` compiles the networks.
          bfloat16: whether they run under autocast to bfloat16.
        """
        self.config, self.steps, self._device = config, 0, device
        self._compiled, self._bfloat16 = compiled, bfloat16
        self._training: Any = build.training(config)
        self.networks = {name: self._network(name, getattr(state, name)) for name in self.NAMES}

    def _network(self, name: str, state: Any) -> "_Network":
        training, method, optim = self._training, self.config.method, self.config.optim
        if name in GENERATORS:
            module = WarpGenerator(training.generator, method.factor, method.mask_weights)
            parameters.load(module, state.params)
            rates = optim.lr, optim.b1
        else:
            paired = method.training == "paired"
            module = PatchDiscriminators(training.adversary.discriminator, conditional=paired)
            parameters.load(module, state.params, state.spectral)
            rates = optim.discriminator_lr, optim.discriminator_b1
        module = module.to(self._device).to(memory_format=torch.channels_last)
        return _Network(module, *rates, optim.b2, self._compiled)

    @abc.abstractmethod
    def step(self, batch: Mapping[str, Tensor]) -> Losses:
        """Takes one step.

        Args:
          batch: "source" and "target", uint8 ``[B, H, W, 3]`` on the device.

        Returns:
          The losses under jax's names.
        """

    def _images(self, batch: Tensor) -> Tensor:
        """Returns floats in [-1, 1], ``[B, 3, H, W]``, channels last in memory as the batch is."""
        return batch.permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def _autocast(self) -> torch.autocast:
        kind = self._device.partition(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self._bfloat16)

    def _train_discriminator(
        self, network: "_Network", real: Tensor, fake: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """Updates a discriminator; returns its loss without the penalty."""
        adversary = self.config.adversary
        images = torch.cat([real, fake.detach()])
        if condition is not None:
            images = torch.cat([images, torch.cat([condition, condition])], 1)
        network.module.requires_grad_(True)
        total = torch.zeros((), device=self._device)
        with self._autocast():
            if adversary.r1 and self.steps % adversary.penalty_every == 0:
                penalty = self._penalty(network.module, images[: len(real)])
                total = adversary.r1 * adversary.penalty_every * penalty
            pairs = [each.chunk(2) for each in network.run(images, update_stats=True)]
        losses = [0.5 * ((a - 1).square() + b.square()).mean() for a, b in pairs]
        loss = torch.stack(losses).mean()
        network.step(total + loss)
        network.module.requires_grad_(False)  # For the generator's loss.
        return loss.detach()

    def _penalty(self, module: nn.Module, real: Tensor) -> Tensor:
        """Returns R1 with respect to the images, not to a condition.

        torch.compile cannot differentiate twice, so this takes the module itself.
        """
        images = real[:, :3].detach().requires_grad_()
        judged = module(torch.cat([images, real[:, 3:]], 1), update_stats=False)
        score = torch.stack([logits.mean((1, 2, 3)).sum() for logits in judged]).sum()
        (slope,) = torch.autograd.grad(score, images, create_graph=True)
        return 0.5 * slope.float().square().sum((1, 2, 3)).mean()

    def _adversarial(
        self, network: "_Network", images: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        seen = images if condition is None else torch.cat([images, condition], 1)
        with self._autocast():
            judged = network.run(seen, update_stats=False)
        return torch.stack([0.5 * (logits - 1).square().mean() for logits in judged]).mean()

    def _translate(self, name: str, images: Tensor) -> Translation:
        with self._autocast():
            made: Translation = self.networks[name].run(images)
        return made

    def _total(self, terms: Losses) -> Losses:
        """Adds the weighted sum of the terms under the name "loss"."""
        weighted = [self.config.losses[name] * term for name, term in terms.items()]
        return {**terms, "loss": torch.stack(weighted).sum()}

    def _update_generators(self, terms: Mapping[str, Losses]) -> Losses:
        """Takes Adam's step on the sum of all losses; returns the terms under jax's names."""
        total = torch.stack([each["loss"] for each in terms.values()]).sum()
        generators = [self.networks[name] for name in terms]
        for network in generators:
            network.optimizer.zero_grad(set_to_none=True)
        total.backward()
        for network in generators:
            network.optimizer.step()
            network.average(self.steps, self.config.optim.ema_decay)
        self.steps += 1
        return {
            f"{name}/{key}": term.detach()
            for name, found in terms.items()
            for key, term in found.items()
        }


class _Network:
    """A network in training.

    Attributes:
      module: the module.
      run: the module, compiled if asked for.
      optimizer: Adam.
      ema: moving averages of its parameters.
    """

    def __init__(
        self, module: nn.Module, learning_rate: float, b1: float, b2: float, compiled: bool
    ) -> None:
        self.module = module
        self.run: Callable[..., Any] = torch.compile(module) if compiled else module
        self._parameters = list(module.parameters())
        self.optimizer = torch.optim.Adam(
            self._parameters, learning_rate, (b1, b2), fused=self._parameters[0].is_cuda
        )
        self.ema = [parameter.detach().clone() for parameter in self._parameters]

    def step(self, loss: Tensor) -> None:
        """Takes Adam's step; the gradient stays in ``.grad``."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def average(self, done: int, decay: float) -> None:
        """Updates the moving averages after ``done`` steps, like ``training.optim.ema_update``."""
        rate = 1.0 - min(decay, (1.0 + done) / (10.0 + done))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self._parameters, rate)


class PairedStep(Step):
    """``training.paired_step.PairedTraining.step``."""

    NAMES = ("generator", "discriminator")

    def step(self, batch: Mapping[str, Tensor]) -> Losses:
        """Takes one step; see `Step`."""
        levels, discriminator = self.config.losses.pyramid_levels, self.networks["discriminator"]
        source, target = self._images(batch["source"]), self._images(batch["target"])
        made = self._translate("generator", source)
        loss = self._train_discriminator(discriminator, target, made.output, source)
        images = {"output": made.output, "pretranslated": made.pretranslated, "warped": made.warped}
        terms = {
            f"l1_{name}": _pyramid(image, target, levels)
            for name, image in images.items()
            if self.config.losses[f"l1_{name}"]
        }
        terms["adversarial"] = self._adversarial(discriminator, made.output, source)
        reports = self._update_generators({"generator": self._total(terms)})
        return {"discriminator/loss": loss, **reports}


class CycleStep(Step):
    """``training.cycle_step.CycleTraining.step`` without a pool."""

    NAMES = ("a_to_b", "b_to_a", "d_a", "d_b")

    def step(self, batch: Mapping[str, Tensor]) -> Losses:
        """Takes one step; see `Step`."""
        a, b = self._images(batch["source"]), self._images(batch["target"])
        to_b, same_b = self._forth_and_same("a_to_b", a, b)
        to_a, same_a = self._forth_and_same("b_to_a", b, a)
        back_a = self._translate("b_to_a", to_b.output).output
        back_b = self._translate("a_to_b", to_a.output).output
        d_a, d_b = self.networks["d_a"], self.networks["d_b"]
        reports = {
            "d_a/loss": self._train_discriminator(d_a, a, to_a.output),
            "d_b/loss": self._train_discriminator(d_b, b, to_b.output),
        }
        terms = {
            "a_to_b": self._direction(d_b, to_b, same_b, b, back_a, a),
            "b_to_a": self._direction(d_a, to_a, same_a, a, back_b, b),
        }
        return {**reports, **self._update_generators(terms)}

    def _forth_and_same(
        self, name: str, source: Tensor, target: Tensor
    ) -> tuple[Translation, Translation]:
        both = self._translate(name, torch.cat([source, target]))
        halves = [field.split(len(source)) for field in vars(both).values()]
        forth, same = zip(*halves, strict=True)
        return Translation(*forth), Translation(*same)

    def _direction(
        self,
        discriminator: _Network,
        made: Translation,
        same: Translation,
        target: Tensor,
        returned: Tensor,
        source: Tensor,
    ) -> Losses:
        reduced = [
            functional.avg_pool2d(each, self.config.method.factor) for each in (returned, source)
        ]
        return self._total(
            {
                "adversarial": self._adversarial(discriminator, made.output),
                "adversarial_pretranslated": self._adversarial(discriminator, made.pretranslated),
                "identity": functional.l1_loss(same.output, target),
                "identity_pretranslated": functional.l1_loss(same.pretranslated, target),
                "cycle": functional.l1_loss(*reduced),
                "cycle_full": functional.l1_loss(returned, source),
            }
        )


def make_step(config: ml_collections.ConfigDict, state: Any, device: str, **how: bool) -> Step:
    """Returns the step for the configuration's kind of training; see `Step`."""
    kind = PairedStep if config.method.training == "paired" else CycleStep
    return kind(config, state, device, **how)


def comparable(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a copy of a configuration without pool and augmentations, with least squares."""
    config = copy.deepcopy(config)
    config.adversary.loss = "least_squares"
    config.adversary.update(color=0.0, translation=0.0, cutout=0.0)
    if "pool_size" in config.method:
        config.method.pool_size = 0
    return config


def _pyramid(images: Tensor, targets: Tensor, levels: int) -> Tensor:
    """``losses.reconstruction.pyramid_l1``, averaged over the batch."""
    terms = [functional.l1_loss(images, targets)]
    for _ in range(levels - 1):
        images, targets = functional.avg_pool2d(images, 2), functional.avg_pool2d(targets, 2)
        terms.append(functional.l1_loss(images, targets))
    return torch.stack(terms).mean()
