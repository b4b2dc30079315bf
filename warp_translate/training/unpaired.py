"""Losses of one direction, for cycle and contrastive training."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from warp_translate.losses import reconstruction
from warp_translate.models import Translation
from warp_translate.settings import setting, weight
from warp_translate.training.base import GeneratorTraining
from warp_translate.training.regularization import Metrics, Regularization, Terms, branch_metrics
from warp_translate.training.state import DiscriminatorState
from warp_translate.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class UnpairedLosses(Regularization):
    """Weights of the losses of one direction."""

    adversarial: float = weight(1.0, "adversarial loss of the output")
    # Its discriminator learns from outputs alone. Without this loss the mask closes before the
    # pretranslated image is worth anything, and the output stays the original.
    adversarial_pretranslated: float = weight(
        0.5, "adversarial loss of the pretranslated image, under the same discriminator"
    )
    adversarial_start: int = setting(
        0,
        "steps before the adversarial losses count: a head start of the discriminators",
        minimum=0,
    )
    adversarial_ramp: int = setting(
        0, "steps over which the adversarial weights then grow to their full value", minimum=0
    )
    identity: float = weight(
        1.0, "L1 between an image of the target domain and its own translation"
    )
    identity_pretranslated: float = weight(3.0, "the same of the pretranslated image")

    @property
    def translates_target(self) -> bool:
        """True if images of the target domain are translated too."""
        return bool(self.identity or self.identity_pretranslated)

    def growth(self, step: Array) -> Array:
        """The share of the adversarial weights that counts at a step, in [0, 1]."""
        done = jnp.asarray(step, jnp.float32) - self.adversarial_start
        return jnp.clip((done + 1.0) / (self.adversarial_ramp + 1.0), 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnpairedTraining(GeneratorTraining):
    """Unpaired training.

    Attributes:
      losses: the losses and their weights.
      state_type: the class of the state, whose pools are each device's own.
    """

    losses: UnpairedLosses
    pool_size: int = setting(
        50, "earlier translations that each device keeps of each domain; 0 for no pool", minimum=0
    )

    state_type: ClassVar[type]

    @property
    def axes(self) -> PyTree:
        """See `Training.axes`."""
        names = [field.name for field in dataclasses.fields(self.state_type)]
        return self.state_type(**{name: 0 if name.startswith("pool_") else None for name in names})

    def translate_both(
        self, params: PyTree, source: Array, target: Array
    ) -> tuple[Translation, Translation | None]:
        """Translates images of both domains, those of the target domain only for a loss on them."""
        if not self.losses.translates_target:
            return self.translate(params, source), None
        # No example influences another, so the two may share a pass.
        both = self.translate(params, jnp.concatenate([source, target]))
        count = len(source)
        return jax.tree.map(lambda x: x[:count], both), jax.tree.map(lambda x: x[count:], both)

    def direction_loss(
        self,
        discriminator: DiscriminatorState,
        forth: Translation,
        same: Translation | None,
        target: Array,
        further: Terms,
        *,
        keys: Array,
        step: Array,
    ) -> tuple[Array, Metrics]:
        """The generator's loss of one direction.

        Args:
          discriminator: that of the target domain.
          forth: the translation from the source to the target domain.
          same: the translation of ``target`` by the same generator, or None.
          target: real images of the target domain, ``[B, H, W, 3]`` in [-1, 1].
          further: further terms.
          keys: ``[B]`` random keys, one for each example.
          step: number of steps done.

        Returns:
          The loss and the metrics.
        """
        losses, adversary = self.losses, self.adversary
        growth = losses.growth(step)
        real = adversary.judge(discriminator, target, keys=keys) if adversary.compares else None

        def adversarial(images: Array) -> Array:
            return adversary.generator_loss(adversary.judge(discriminator, images, keys=keys), real)

        terms = losses.terms(forth, self.method.factor)
        terms["adversarial"] = lambda: adversarial(forth.output)
        terms["adversarial_pretranslated"] = lambda: adversarial(forth.pretranslated)
        if same is not None:
            terms["identity"] = lambda: reconstruction.l1(same.output, target)
            terms["identity_pretranslated"] = lambda: reconstruction.l1(same.pretranslated, target)
        total, metrics = losses.weighted_sum(
            terms | further, {"adversarial": growth, "adversarial_pretranslated": growth}
        )
        return total, metrics | branch_metrics(forth)
