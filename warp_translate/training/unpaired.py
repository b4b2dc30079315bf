"""Losses of one direction, for cycle and contrastive training."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from warp_translate.losses import reconstruction, regularizers
from warp_translate.models import Translation
from warp_translate.settings import setting, weight
from warp_translate.training.base import GeneratorTraining
from warp_translate.training.regularization import Metrics, Regularization, Terms, branch_metrics
from warp_translate.training.rng import stream_key
from warp_translate.training.state import DiscriminatorState
from warp_translate.types import Array, PyTree

Shown = Literal["output", "any"]

Judged = Literal["all", "one"]


@dataclasses.dataclass(frozen=True)
class UnpairedLosses(Regularization):
    """Weights of the losses of one direction."""

    adversarial: float = weight(1.0, "adversarial loss of the output")
    # Its discriminator learns from outputs alone. Without this loss the mask closes before the
    # pretranslated image is worth anything, and the output stays the original.
    adversarial_pretranslated: float = weight(
        0.5, "adversarial loss of the pretranslated image, under the same discriminator"
    )
    adversarial_warped: float = weight(0.0, "adversarial loss of the warped image")
    closed_mask: float = weight(
        0.0, "L1 between pretranslated and warped image where the mask is closed"
    )
    adversarial_start: int = setting(
        0,
        "steps before the adversarial losses count: a head start of the discriminators",
        minimum=0,
    )
    adversarial_ramp: int = setting(
        0, "steps over which the adversarial weights then grow to their full value", minimum=0
    )
    change: float = weight(0.0, "L1 between the output and its original, against needless changes")
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

    shown: Shown = setting(
        "output",
        "images that discriminators learn from: the output, or any of output, pretranslated and "
        "warped image, drawn anew for each example",
        choices=Shown,
        name="adversary.shown",
    )

    judged: Judged = setting(
        "all",
        "images that generators are judged by: all with a weight, or one of them, drawn anew for "
        "each example in proportion to the weights: the same gradient on average, much cheaper",
        choices=Judged,
        name="adversary.judged",
    )

    state_type: ClassVar[type]

    @property
    def axes(self) -> PyTree:
        """See `Training.axes`."""
        names = [field.name for field in dataclasses.fields(self.state_type)]
        return self.state_type(**{name: 0 if name.startswith("pool_") else None for name in names})

    def candidates(self, made: Translation) -> Array:
        """The translated images of which `choose` shows one, ``[B, N, H, W, 3]``."""
        images = [made.output]
        if self.shown != "output":
            images += [made.pretranslated, made.warped]
        return jnp.stack(images, 1)

    def choose(self, candidates: Array, keys: Array) -> Array:
        """Draws the image of each example that the discriminator learns from as translated.

        Args:
          candidates: ``[B, N, H, W, 3]``, see `candidates`.
          keys: ``[B]`` random keys, one for each example.

        Returns:
          ``[B, H, W, 3]``.
        """
        count = candidates.shape[1]
        if count == 1:
            return candidates[:, 0]
        return _draw(candidates, [1.0] * count, keys)

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
        source: Array,
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
          source: the originals of ``forth``, ``[B, H, W, 3]`` in [-1, 1].
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

        branches = {
            "adversarial": forth.output,
            "adversarial_pretranslated": forth.pretranslated,
            "adversarial_warped": forth.warped,
        }
        branches = {name: images for name, images in branches.items() if getattr(losses, name)}
        terms = losses.terms(forth, self.method.factor)
        scales = dict.fromkeys([*branches, "adversarial_back"], growth)
        if len(branches) > 1 and self.judged == "one":
            weights = {name: getattr(losses, name) for name in branches}
            drawn = _draw(jnp.stack([*branches.values()], 1), [*weights.values()], keys)
            # One loss for all of them, under the first one's name and with their whole weight.
            name = next(iter(branches))
            scales[name] = growth * sum(weights.values()) / weights[name]
            branches = {name: drawn}
        if branches:  # Judged in one pass, since no example influences another.
            judged = adversary.judge(
                discriminator,
                jnp.concatenate([*branches.values()]),
                keys=jnp.concatenate([keys] * len(branches)),
            )
            for place, name in enumerate(branches):
                rows = slice(place * len(target), (place + 1) * len(target))
                fake = jax.tree.map(operator.itemgetter(rows), judged)
                terms[name] = functools.partial(adversary.generator_loss, fake, real)
        terms["closed_mask"] = lambda: regularizers.closed_mask_difference(
            forth.mask, forth.pretranslated, forth.warped
        )
        terms["change"] = lambda: reconstruction.l1(forth.output, source)
        if same is not None:
            terms["identity"] = lambda: reconstruction.l1(same.output, target)
            terms["identity_pretranslated"] = lambda: reconstruction.l1(same.pretranslated, target)
        total, metrics = losses.weighted_sum(terms | further, scales)
        return total, metrics | branch_metrics(forth)


def _draw(candidates: Array, weights: Sequence[float], keys: Array) -> Array:
    """Draws one of ``[B, N, H, W, 3]`` for each example, in proportion to the ``N`` weights."""
    logits = jnp.log(jnp.asarray(weights, jnp.float32))
    drawn = jax.vmap(lambda key: jax.random.categorical(stream_key(key, "shown"), logits))(keys)
    return jnp.take_along_axis(candidates, drawn[:, None, None, None, None], 1)[:, 0]
