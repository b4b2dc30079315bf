"""This package's paired and cycle training steps in PyTorch: networks, losses, optimisers, EMA.

What the default experiments use is written; anything else raises. Augmentations and the image pool,
whose random draws could not be the same, are not: switch them off in jax when the two are compared.
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
from warp_translate.types import PyTree

Losses = dict[str, Tensor]


class Step(abc.ABC):
    """What both steps share: how a config's networks are built, run and updated.

    Attributes:
      config: the configuration.
      device: where everything is.
      steps: number of steps done.
      networks: by the names that they have in jax's state.
    """

    GENERATORS: tuple[str, ...]
    DISCRIMINATORS: tuple[str, ...]

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        state: Any,
        device: str,
        *,
        compiled: bool,
        bfloat16: bool,
    ) -> None:
        """Takes over a state of jax.

        Args:
          config: the configuration.
          state: the state of a training of this kind.
          device: torch's name of it.
          compiled: whether networks go through ``torch.compile``.
          bfloat16: whether they run under autocast to bfloat16.

        Raises:
          ValueError: the configuration asks for something that is not written here.
        """
        losses, adversary = config.losses, config.adversary
        unwritten = {
            "adversary.loss": adversary.loss != "least_squares",
            "adversary.r2": adversary.r2,
            "augmentation": adversary.colour or adversary.translation or adversary.cutout,
            "losses.feature_matching": losses.get("feature_matching", 0.0),
            "priors": losses.smoothness_first
            or losses.smoothness_second
            or losses.mask_variation
            or losses.mask_band,
            "adversarial_start": losses.get("adversarial_start", 0)
            or losses.get("adversarial_ramp", 0),
            "method.pool_size": config.method.get("pool_size", 0),
            "method.fusion": config.method.fusion != "full",
            "method.reduction": config.method.reduction != "box",
            "losses.perceptual": losses.get("perceptual", 0.0),
            "training.accumulate": config.training.accumulate != 1,
        }
        if odd := [name for name, asked in unwritten.items() if asked]:
            raise ValueError(f"not written in torch: {', '.join(odd)}")
        self.config, self.device, self.steps = config, device, 0
        self._compiled, self._bfloat16 = compiled, bfloat16
        self._training: Any = build.training(config)
        self._conditional = config.method.training == "paired"
        self.networks = {
            **{name: self.generator(getattr(state, name).params) for name in self.GENERATORS},
            **{name: self.discriminator(getattr(state, name)) for name in self.DISCRIMINATORS},
        }

    @abc.abstractmethod
    def step(self, batch: Mapping[str, Tensor]) -> Losses:
        """One step.

        Args:
          batch: "source" and "target", uint8 ``[B, H, W, 3]`` on the device.

        Returns:
          The losses by the names that jax reports them under.
        """

    def generator(self, params: PyTree) -> "_Network":
        """The network of flax's parameters."""
        training = self._training
        module = WarpGenerator(
            training.generator, training.method.factor, training.method.mask_weights
        )
        parameters.load(module, params)
        optim = self.config.optim
        return _Network(self._placed(module), optim.lr, optim.b1, optim, self._compiled)

    def discriminator(self, state: Any) -> "_Network":
        """The network of flax's parameters and spectral statistics."""
        described = self._training.adversary.discriminator
        module = PatchDiscriminators(described, conditional=self._conditional)
        parameters.load(module, state.params, state.spectral)
        optim = self.config.optim
        learning_rate, b1 = optim.discriminator_lr, optim.discriminator_b1
        return _Network(self._placed(module), learning_rate, b1, optim, self._compiled)

    def _placed(self, module: nn.Module) -> nn.Module:
        return module.to(self.device).to(memory_format=torch.channels_last)

    def images(self, batch: Tensor) -> Tensor:
        """Floats in [-1, 1], ``[B, 3, H, W]``, of uint8 ``[B, H, W, 3]`` on the device."""
        # Seen channels first a batch of channels last is what channels_last means: nothing moves.
        return batch.permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def autocast(self) -> torch.autocast:
        """The type of the networks' computation."""
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self._bfloat16)

    def train_discriminator(
        self, network: "_Network", real: Tensor, fake: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """``training.adversary.Adversary.update``; returns the loss without the penalty."""
        adversary = self.config.adversary
        images = torch.cat([real, fake.detach()])
        if condition is not None:
            images = torch.cat([images, torch.cat([condition, condition])], 1)
        network.module.requires_grad_(True)
        total = torch.zeros((), device=self.device)
        with self.autocast():
            if adversary.r1 and self.steps % adversary.penalty_every == 0:
                penalty = self._penalty(network.module, images[: len(real)])
                total = adversary.r1 * adversary.penalty_every * penalty
            judged = network.run(images, update_stats=True)
            pairs = [logits.chunk(2) for logits in judged]
        losses = [0.5 * ((a - 1).square() + b.square()).mean() for a, b in pairs]
        loss = torch.stack(losses).mean()
        network.step(total + loss)
        network.module.requires_grad_(False)  # To the generator's loss it is a constant.
        return loss.detach()

    def _penalty(self, module: nn.Module, real: Tensor) -> Tensor:
        """R1. Differentiated twice, which compiled modules cannot be: as it is."""
        # Of the images alone, not of a condition.
        images = real[:, :3].detach().requires_grad_()
        score = torch.stack(
            [
                logits.mean((1, 2, 3)).sum()
                for logits in module(torch.cat([images, real[:, 3:]], 1), update_stats=False)
            ]
        ).sum()
        (slope,) = torch.autograd.grad(score, images, create_graph=True)
        return 0.5 * slope.float().square().sum((1, 2, 3)).mean()

    def adversarial(
        self, network: "_Network", images: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """What the discriminator tells a generator."""
        seen = images if condition is None else torch.cat([images, condition], 1)
        with self.autocast():
            judged = network.run(seen, update_stats=False)
        return torch.stack([0.5 * (logits - 1).square().mean() for logits in judged]).mean()

    def translate(self, network: "_Network", images: Tensor) -> Translation:
        """Translates ``[B, 3, H, W]``."""
        with self.autocast():
            made: Translation = network.run(images)
        return made


class _Network:
    """A network in training.

    Attributes:
      module: the module as it is.
      run: the same, compiled where asked for.
      ema: moving averages of its parameters.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        b1: float,
        optim: ml_collections.ConfigDict,
        compiled: bool,
    ) -> None:
        self.module = module
        self.run: Callable[..., Any] = torch.compile(module) if compiled else module
        self._parameters = list(module.parameters())
        self._optimizer = torch.optim.Adam(
            self._parameters,
            learning_rate,
            (b1, optim.b2),
            fused=self._parameters[0].is_cuda,
        )
        self.ema = [parameter.detach().clone() for parameter in self._parameters]

    def step(self, loss: Tensor) -> None:
        """One step of Adam along the gradient of a loss, which stays in ``.grad``."""
        self.clear()
        loss.backward()
        self.apply()

    def clear(self) -> None:
        """Forgets the gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def apply(self) -> None:
        """One step of Adam along the gradient."""
        self._optimizer.step()

    def average(self, done: int, decay: float) -> None:
        """``training.optim.ema_update`` after ``done`` steps."""
        rate = 1.0 - min(decay, (1.0 + done) / (10.0 + done))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self._parameters, rate)


class PairedStep(Step):
    """``training.paired_step.PairedTraining.step``."""

    GENERATORS, DISCRIMINATORS = ("generator",), ("discriminator",)

    def step(self, batch: Mapping[str, Tensor]) -> Losses:
        """One step; see `Step`."""
        losses, generator = self.config.losses, self.networks["generator"]
        discriminator = self.networks["discriminator"]
        source, target = self.images(batch["source"]), self.images(batch["target"])
        made = self.translate(generator, source)
        reports = {
            "discriminator/loss": self.train_discriminator(
                discriminator, target, made.output, source
            )
        }
        terms = {
            "adversarial": self.adversarial(discriminator, made.output, source),
            "l1_output": _pyramid(made.output, target, losses.pyramid_levels),
            "l1_pretranslated": _pyramid(made.pretranslated, target, losses.pyramid_levels),
            "l1_warped": _pyramid(made.warped, target, losses.pyramid_levels),
        }
        total = sum((losses[name] * term for name, term in terms.items()), torch.zeros(()))
        generator.step(total)
        generator.average(self.steps, self.config.optim.ema_decay)
        self.steps += 1
        for name, term in {**terms, "loss": total}.items():
            reports[f"generator/{name}"] = term.detach()
        return reports


class CycleStep(Step):
    """``training.cycle_step.CycleTraining.step`` without a pool."""

    GENERATORS, DISCRIMINATORS = ("a_to_b", "b_to_a"), ("d_a", "d_b")

    def step(self, batch: Mapping[str, Tensor]) -> Losses:
        """One step; see `Step`."""
        networks = self.networks
        a, b = self.images(batch["source"]), self.images(batch["target"])
        to_b, same_b = self._forth_and_same(networks["a_to_b"], a, b)
        to_a, same_a = self._forth_and_same(networks["b_to_a"], b, a)
        back_a = self.translate(networks["b_to_a"], to_b.output).output
        back_b = self.translate(networks["a_to_b"], to_a.output).output
        reports = {
            "d_a/loss": self.train_discriminator(networks["d_a"], a, to_a.output),
            "d_b/loss": self.train_discriminator(networks["d_b"], b, to_b.output),
        }
        loss_b, terms_b = self._direction(networks["d_b"], to_b, same_b, b, back_a, a)
        loss_a, terms_a = self._direction(networks["d_a"], to_a, same_a, a, back_b, b)
        for name in ("a_to_b", "b_to_a"):
            networks[name].clear()
        (loss_b + loss_a).backward()
        for name in ("a_to_b", "b_to_a"):
            networks[name].apply()
            networks[name].average(self.steps, self.config.optim.ema_decay)
        self.steps += 1
        for direction, terms in (("a_to_b", terms_b), ("b_to_a", terms_a)):
            for name, term in terms.items():
                reports[f"{direction}/{name}"] = term.detach()
        return reports

    def _forth_and_same(
        self, network: _Network, source: Tensor, target: Tensor
    ) -> tuple[Translation, Translation]:
        both = self.translate(network, torch.cat([source, target]))
        forth, same = zip(*(field.split(len(source)) for field in vars(both).values()), strict=True)
        return Translation(*forth), Translation(*same)

    def _direction(
        self,
        discriminator: _Network,
        made: Translation,
        same: Translation,
        target: Tensor,
        returned: Tensor,
        source: Tensor,
    ) -> tuple[Tensor, Losses]:
        losses, factor = self.config.losses, self.config.method.factor
        terms = {
            "adversarial": self.adversarial(discriminator, made.output),
            "adversarial_pretranslated": self.adversarial(discriminator, made.pretranslated),
            "identity": functional.l1_loss(same.output, target),
            "identity_pretranslated": functional.l1_loss(same.pretranslated, target),
            "cycle": functional.l1_loss(
                functional.avg_pool2d(returned, factor), functional.avg_pool2d(source, factor)
            ),
            "cycle_full": functional.l1_loss(returned, source),
        }
        total = sum((losses[name] * term for name, term in terms.items()), torch.zeros(()))
        return total, {**terms, "loss": total}


def step_of(config: ml_collections.ConfigDict, state: Any, device: str, **how: bool) -> Step:
    """The step of the configuration's kind of training; see `Step`."""
    kind = PairedStep if config.method.training == "paired" else CycleStep
    return kind(config, state, device, **how)


def without_randomness(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of a configuration whose step draws nothing: no pool and no augmentations."""
    config = copy.deepcopy(config)
    config.adversary.update(colour=0.0, translation=0.0, cutout=0.0)
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
