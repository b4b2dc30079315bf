"""One step of paired training: one generator, one conditional discriminator."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import get_args

import jax.numpy as jnp
import optax
from jax import lax

from warp_translate.losses import reconstruction
from warp_translate.models import Fusion, Generator, Translation, translate
from warp_translate.ops import MaskWeights, Reduction
from warp_translate.training.accumulation import forward
from warp_translate.training.discriminator_training import Adversary, example_keys, example_streams
from warp_translate.training.networks import check_size, init_params
from warp_translate.training.optim import init_network, update_network
from warp_translate.training.parallel import mean_over_devices
from warp_translate.training.regularization import Metrics, Priors, branch_reports, weighted_sum
from warp_translate.training.rng import stream_key
from warp_translate.training.state import DiscriminatorState, PairedState
from warp_translate.types import Array, PyTree, to_float

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class PairedLosses(Priors):
    """Which losses paired training uses, and how much of each; a weight of zero costs nothing.

    Attributes:
      adversarial: weight of the adversarial loss; at 0 no discriminator is trained.
      l1_output: L1 between output and truth.
      l1_pretranslated: the same for the pretranslated image alone, so that it cannot starve.
      l1_warped: the same for the warped image alone.
      pyramid_levels: sizes at which these three L1 are taken, see ``losses/reconstruction.py``.
      feature_matching: distance of the discriminator's activations.
      perceptual: distance of the output and the truth in a classifier's features.
    """

    adversarial: float = 1.0
    l1_output: float = 100.0
    l1_pretranslated: float = 10.0
    l1_warped: float = 10.0
    pyramid_levels: int = 1
    feature_matching: float = 0.0
    perceptual: float = 0.0

    def __post_init__(self) -> None:
        if self.pyramid_levels < 1:
            raise ValueError(f"losses.pyramid_levels {self.pyramid_levels} must be at least 1")


@dataclasses.dataclass(frozen=True)
class PairedTraining:
    """Paired training as functions of explicit state.

    Attributes:
      generator: the generator module.
      generator_optimizer: transforms the generator's gradients.
      adversary: the discriminator and its training; it is handed the original as condition.
      losses: the losses and their weights.
      factor: how many times smaller the trunk's image is.
      mask_weights: which image the mask multiplies.
      fusion: how the output is put together.
      reduction: how the reduced image is made.
      warp_kernels: whether TPUs may warp by kernels, see ``models.translate``.
      ema_decay: decay of the generator's moving average.
      microbatches: parts of a device's batch whose gradients are taken one after the other.
      perceptual_distance: of two batches of images in [-1, 1], ``[B]``; where its weight is not 0.
    """

    generator: Generator
    generator_optimizer: optax.GradientTransformation
    adversary: Adversary
    losses: PairedLosses
    factor: int
    mask_weights: MaskWeights = "pretranslated"
    fusion: Fusion = "full"
    reduction: Reduction = "box"
    warp_kernels: bool = False
    ema_decay: float = 0.999
    microbatches: int = 1
    perceptual_distance: Callable[[Array, Array], Array] | None = None

    def __post_init__(self) -> None:
        for name, kinds in (
            ("mask_weights", MaskWeights),
            ("fusion", Fusion),
            ("reduction", Reduction),
        ):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(
                    f"method.{name} must be one of {get_args(kinds)}, got {getattr(self, name)!r}"
                )
        if self.factor < 1:
            raise ValueError(f"method.factor must be at least 1, got {self.factor}")
        if self.losses.perceptual and self.perceptual_distance is None:
            raise ValueError(
                f"losses.perceptual {self.losses.perceptual} needs a perceptual_distance"
            )

    @property
    def results(self) -> tuple[str, ...]:
        """Names of the networks in the state that the training is for: the generators."""
        return ("generator",)

    @property
    def axes(self) -> None:
        """Which part of the state each device has for itself, see `parallel.Replicas`: none."""
        return None

    def check_size(self, size: int) -> None:
        """Checks that training images of so many pixels a side suit the networks.

        Raises:
          ValueError: they do not.
        """
        check_size(
            size,
            self.generator,
            self.adversary.discriminator,
            self.factor,
            self.losses.pyramid_levels,
        )

    def init(self, root: Array, size: int) -> PairedState:
        """Draws the initial state.

        Args:
          root: the run's root key.
          size: side of the training images in pixels.

        Returns:
          The state at step 0. Parameters do not depend on the size.

        Raises:
          ValueError: the size does not suit the networks.
        """
        self.check_size(size)
        original = jnp.zeros((1, size, size, 3))
        params = init_params(self.generator, stream_key(root, "generator_init"), size, self.factor)
        return PairedState(
            step=jnp.zeros((), jnp.int32),
            generator=init_network(params, self.generator_optimizer),
            discriminator=self.adversary.init(
                stream_key(root, "discriminator_init"), original, original
            ),
        )

    def translate(self, params: PyTree, original: Array, *, in_bands: bool = False) -> Translation:
        """Translates ``[B, H, W, 3]`` floats in [-1, 1] as training does."""
        return translate(
            self.generator,
            params,
            original,
            self.factor,
            mask_weights=self.mask_weights,
            fusion=self.fusion,
            reduction=self.reduction,
            in_bands=in_bands,
            warp_kernels=self.warp_kernels,
        )

    def step(
        self, state: PairedState, batch: Batch, root: Array, *, axis_name: str | None = None
    ) -> tuple[PairedState, Metrics]:
        """Updates the discriminator, then the generator under the new discriminator.

        The generator runs once, see `accumulation.forward`. Gradients, not losses, are averaged
        over devices, and every loss is a mean over examples: any split of a batch gives the same
        step.

        Args:
          state: the state.
          batch: "source" and "target", uint8 ``[B, H, W, 3]`` each.
          root: the run's root key.
          axis_name: the mapped axis of the devices, or None on a single one.

        Returns:
          The next state and the metrics, float32 scalars averaged over devices.
        """
        source, target = to_float(batch["source"]), to_float(batch["target"])
        keys = example_keys(root, "augmentation", state.step, len(source), axis_name)
        discriminator_keys, generator_keys = example_streams(keys, 2)
        output, back = forward(
            lambda params, part: self.translate(params, part["source"]),
            state.generator.params,
            {"source": source, "target": target, "keys": generator_keys},
            self.microbatches,
            shown=lambda translation: translation.output,
        )
        metrics: Metrics = {}

        discriminator = state.discriminator
        if self.losses.adversarial:
            discriminator, reports = self.adversary.update(
                discriminator,
                target,
                output,
                source,
                keys=discriminator_keys,
                step=state.step,
                axis_name=axis_name,
            )
            metrics |= {f"discriminator/{name}": value for name, value in reports.items()}

        gradient, (reports, branches) = back(
            lambda _, translation, part: self._generator_loss(translation, discriminator, **part)
        )
        gradient = mean_over_devices(gradient, axis_name)
        reports["gradient_norm"] = optax.tree.norm(gradient)
        metrics |= {f"generator/{name}": value for name, value in reports.items()}
        metrics |= branches
        generator = update_network(
            state.generator,
            gradient,
            self.generator_optimizer,
            step=state.step,
            ema_decay=self.ema_decay,
        )
        next_state = PairedState(
            step=state.step + 1, generator=generator, discriminator=discriminator
        )
        return next_state, mean_over_devices(metrics, axis_name)

    def _generator_loss(
        self,
        translation: Translation,
        discriminator: DiscriminatorState,
        source: Array,
        target: Array,
        keys: Array,
    ) -> tuple[Array, tuple[Metrics, Metrics]]:
        losses = self.losses

        def distance(images: Array) -> Array:
            return reconstruction.pyramid_l1(images, target, losses.pyramid_levels)

        terms = {
            "l1_output": (losses.l1_output, lambda: distance(translation.output)),
            "l1_pretranslated": (
                losses.l1_pretranslated,
                lambda: distance(translation.pretranslated),
            ),
            "l1_warped": (losses.l1_warped, lambda: distance(translation.warped)),
            **losses.terms(translation, self.factor),
        }
        if (perceptual := self.perceptual_distance) is not None:
            terms["perceptual"] = (
                losses.perceptual,
                lambda: perceptual(translation.output, target),
            )
        if losses.adversarial:
            fake = self.adversary.judge(discriminator, translation.output, source, keys=keys)
            real = None
            if losses.feature_matching or self.adversary.compares:
                real = lax.stop_gradient(
                    self.adversary.judge(discriminator, target, source, keys=keys)
                )
            terms["adversarial"] = (
                losses.adversarial,
                lambda: self.adversary.generator_loss(fake, real),
            )
            if real is not None:
                terms["feature_matching"] = (
                    losses.feature_matching,
                    lambda: reconstruction.feature_matching(fake.features, real.features),
                )
        total, reports = weighted_sum(terms)
        return total, ({**reports, "loss": total}, branch_reports(translation))
