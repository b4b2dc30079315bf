"""One step of paired training: one generator, one discriminator."""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
import optax
from jax import lax

from warp_translate.losses import reconstruction
from warp_translate.models import Translation
from warp_translate.settings import setting, weight
from warp_translate.training.accumulation import forward
from warp_translate.training.base import Batch, GeneratorTraining
from warp_translate.training.discriminator_training import example_keys, example_streams
from warp_translate.training.parallel import mean_over_devices
from warp_translate.training.regularization import (
    Metrics,
    Regularization,
    branch_metrics,
    prefixed,
)
from warp_translate.training.rng import stream_key
from warp_translate.training.state import DiscriminatorState, PairedState
from warp_translate.types import Array, to_float


@dataclasses.dataclass(frozen=True)
class PairedLosses(Regularization):
    """Weights of the losses of paired training; ``adversarial=0`` trains no discriminator."""

    adversarial: float = weight(1.0, "adversarial loss of the output")
    l1_output: float = weight(100.0, "L1 between output and target")
    l1_pretranslated: float = weight(20.0, "L1 between pretranslated image and target")
    # A much larger one makes the warp imitate details that only new pixels can show.
    l1_warped: float = weight(5.0, "L1 between warped image and target")
    pyramid_levels: int = setting(
        1, "sizes, each half of the last, at which these L1 are averaged", minimum=1, maximum=15
    )
    gradient: float = weight(0.0, "L1 between the differences of neighboring pixels of the output")
    local_contrast: float = weight(0.0, "L1 between local contrasts of output and target")
    feature_matching: float = weight(0.0, "L1 between the discriminator's activations")
    perceptual: float = weight(
        0.0, "distance in features of EfficientNet-Lite0; needs the extra eval"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedTraining(GeneratorTraining):
    """Paired training.

    The discriminator judges whether an image is the true translation of its original, or, not
    ``conditional`` as in claim 11 of the patent, whether it is a true image of the target domain.

    A batch holds "source" and "target", uint8 ``[B, H, W, 3]`` each.

    Attributes:
      losses: the losses and their weights.
      perceptual_distance: maps two batches of images in [-1, 1] to ``[B]``; required by its weight.
    """

    losses: PairedLosses
    conditional: bool = setting(
        True, "the discriminator sees the original too", name="discriminator.conditional"
    )
    perceptual_distance: Callable[[Array, Array], Array] | None = None

    results: ClassVar[tuple[str, ...]] = ("generator",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.losses.perceptual and self.perceptual_distance is None:
            raise ValueError(
                f"losses.perceptual {self.losses.perceptual} needs a perceptual_distance"
            )

    @property
    def pyramid_levels(self) -> int:
        """See `GeneratorTraining.pyramid_levels`."""
        return self.losses.pyramid_levels

    def check_size(self, size: int) -> None:
        """See `Training.check_size`."""
        super().check_size(size)
        if self.losses.local_contrast and size < 16:
            raise ValueError(f"training size {size} must be at least 16 for losses.local_contrast")

    def init(self, root: Array, size: int) -> PairedState:
        """See `Training.init`."""
        self.check_size(size)
        images = jnp.zeros((1, size, size, 3))
        return PairedState(
            step=jnp.zeros((), jnp.int32),
            generator=self.init_generator(stream_key(root, "generator_init"), size),
            discriminator=self.adversary.init(
                stream_key(root, "discriminator_init"), images, self._condition(images)
            ),
            gap=self.initial_gap(),
        )

    def step(
        self, state: PairedState, batch: Batch, root: Array, *, axis_name: str | None = None
    ) -> tuple[PairedState, Metrics]:
        """Updates the discriminator, then the generator under the new discriminator.

        The generator runs once, see `accumulation.forward`. Gradients are averaged over devices,
        and every loss is a mean over examples: any split of a batch gives the same step.
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

        discriminator, judged = state.discriminator, []
        if self.losses.adversarial:
            discriminator, reports = self.adversary.update(
                discriminator,
                target,
                output,
                self._condition(source),
                keys=discriminator_keys,
                step=state.step,
                axis_name=axis_name,
            )
            metrics |= prefixed("discriminator", reports)
            judged = [reports]
        gap, found = self.next_gap(state.gap, judged, axis_name)
        metrics |= found

        gradient, (reports, branches) = back(
            lambda _, translation, part: self._generator_loss(translation, discriminator, **part)
        )
        gradient = mean_over_devices(gradient, axis_name)
        reports["gradient_norm"] = optax.tree.norm(gradient)
        metrics |= prefixed("generator", reports) | branches
        next_state = PairedState(
            step=state.step + 1,
            generator=self.update_generator(state.generator, gradient, state.step),
            discriminator=discriminator,
            gap=gap,
        )
        return next_state, mean_over_devices(metrics, axis_name)

    def _condition(self, originals: Array) -> Array | None:
        return originals if self.conditional else None

    def _generator_loss(
        self,
        translation: Translation,
        discriminator: DiscriminatorState,
        source: Array,
        target: Array,
        keys: Array,
    ) -> tuple[Array, tuple[Metrics, Metrics]]:
        losses = self.losses

        def l1(images: Array) -> Array:
            return reconstruction.pyramid_l1(images, target, losses.pyramid_levels)

        terms = {
            "l1_output": lambda: l1(translation.output),
            "l1_pretranslated": lambda: l1(translation.pretranslated),
            "l1_warped": lambda: l1(translation.warped),
            "gradient": lambda: reconstruction.gradient_l1(translation.output, target),
            "local_contrast": lambda: reconstruction.local_contrast_l1(translation.output, target),
            **losses.terms(translation, self.method.factor),
        }
        if (perceptual := self.perceptual_distance) is not None:
            terms["perceptual"] = lambda: perceptual(translation.output, target)
        if losses.adversarial:
            judge = functools.partial(
                self.adversary.judge, discriminator, condition=self._condition(source), keys=keys
            )
            fake, real = judge(translation.output), None
            if losses.feature_matching or self.adversary.compares:
                real = lax.stop_gradient(judge(target))
            terms["adversarial"] = lambda: self.adversary.generator_loss(fake, real)
            if real is not None:
                terms["feature_matching"] = lambda: reconstruction.feature_matching(
                    fake.features, real.features
                )
        total, reports = losses.weighted_sum(terms)
        return total, (reports, branch_metrics(translation))
