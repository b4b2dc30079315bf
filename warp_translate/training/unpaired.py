"""What both kinds of unpaired training share: one direction's losses, without its way back."""

import dataclasses

import jax
import jax.numpy as jnp

from warp_translate.losses import reconstruction
from warp_translate.models import Translation
from warp_translate.training.discriminator_training import Adversary
from warp_translate.training.regularization import Priors, Terms
from warp_translate.training.state import DiscriminatorState
from warp_translate.types import Array


@dataclasses.dataclass(frozen=True)
class UnpairedLosses(Priors):
    """Losses of one direction; a weight of zero costs nothing.

    Attributes:
      adversarial: adversarial loss of the output.
      adversarial_pretranslated: the same for the pretranslated image alone, under the same
        discriminator, which learns from outputs only. Without it the mask closes before the
        pretranslated image has learnt to be worth anything, and the output stays the original.
      adversarial_start: steps of the discriminators' head start: until then the two weights are
        zero, and the generators learn to reproduce.
      adversarial_ramp: steps over which the two weights then grow to their full value.
      identity: L1 between an image that is in the target domain already and its translation.
      identity_pretranslated: the same for the pretranslated image alone.
    """

    adversarial: float = 1.0
    adversarial_pretranslated: float = 0.0
    adversarial_start: int = 0
    adversarial_ramp: int = 0
    identity: float = 1.0
    identity_pretranslated: float = 3.0

    def __post_init__(self) -> None:
        if self.adversarial_start < 0 or self.adversarial_ramp < 0:
            raise ValueError(
                f"losses.adversarial_start {self.adversarial_start} and losses.adversarial_ramp "
                f"{self.adversarial_ramp} are steps, 0 or more"
            )

    @property
    def translates_target(self) -> bool:
        """Whether images of the target domain are translated too."""
        return bool(self.identity or self.identity_pretranslated)

    def growth(self, step: Array) -> Array:
        """The share of the adversarial weights that counts at a step, in [0, 1]."""
        done = jnp.asarray(step, jnp.float32) - self.adversarial_start
        return jnp.clip((done + 1.0) / (self.adversarial_ramp + 1.0), 0.0, 1.0)


def direction_terms(
    losses: UnpairedLosses,
    adversary: Adversary,
    discriminator: DiscriminatorState,
    forth: Translation,
    same: Translation | None,
    target: Array,
    *,
    factor: int,
    keys: Array,
    step: Array,
) -> Terms:
    """The weighted losses of one direction, for ``priors.weighted_sum``.

    Args:
      losses: the weights.
      adversary: how the discriminator judges.
      discriminator: that of the target domain.
      forth: the translation from the source to the target domain.
      same: the translation of ``target`` by the same generator; None without an identity loss.
      target: real images of the target domain, ``[B, H, W, 3]`` in [-1, 1].
      factor: how many times smaller the trunk's image is.
      keys: ``[B]`` random keys, one for each example.
      step: number of steps done.

    Returns:
      The terms.
    """
    terms = losses.terms(forth, factor)
    growth = losses.growth(step)
    real = adversary.judge(discriminator, target, keys=keys) if adversary.compares else None

    def adversarial(images: Array) -> Array:
        return adversary.generator_loss(adversary.judge(discriminator, images, keys=keys), real)

    if losses.adversarial:
        terms["adversarial"] = (losses.adversarial * growth, lambda: adversarial(forth.output))
    if losses.adversarial_pretranslated:
        terms["adversarial_pretranslated"] = (
            losses.adversarial_pretranslated * growth,
            lambda: adversarial(forth.pretranslated),
        )
    if same is not None:
        terms["identity"] = (losses.identity, lambda: reconstruction.l1(same.output, target))
        terms["identity_pretranslated"] = (
            losses.identity_pretranslated,
            lambda: reconstruction.l1(same.pretranslated, target),
        )
    return terms


def split_translation(both: Translation, count: int) -> tuple[Translation, Translation]:
    """Parts a translation after ``count`` examples."""
    return jax.tree.map(lambda x: x[:count], both), jax.tree.map(lambda x: x[count:], both)
