"""Training of a discriminator, and its loss for generators."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from warp_translate.losses.adversarial import (
    Adversarial,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    probabilities,
)
from warp_translate.models import Discriminator, DiscriminatorOutput
from warp_translate.ops.augment import NO_AUGMENTATION, Augmentation, augment
from warp_translate.settings import check, setting, weight
from warp_translate.training.accumulation import mean_over_microbatches
from warp_translate.training.parallel import device_index, mean_over_devices
from warp_translate.training.regularization import Metrics
from warp_translate.training.rng import stream_key
from warp_translate.training.state import DiscriminatorState
from warp_translate.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator's training, and its loss for generators.

    Attributes:
      discriminator: the module.
      optimizer: transforms its gradients.
      augmentation: applied to all images before they are judged.
      microbatches: parts of a device's batch whose gradients are computed in turn.
    """

    discriminator: Discriminator
    optimizer: optax.GradientTransformation
    augmentation: Augmentation = NO_AUGMENTATION
    microbatches: int = 1
    loss: Adversarial = setting("bce", "kind of adversarial loss", choices=Adversarial)
    r1: float = weight(0.0, "gradient penalty of PatchGANs on real images")
    r2: float = weight(0.0, "gradient penalty of PatchGANs on translated images")
    penalty_every: int = setting(
        16, "steps between gradient penalties, which are scaled up by it", minimum=1
    )

    def __post_init__(self) -> None:
        check(self, "adversary")

    def init(self, key: Array, images: Array, condition: Array | None = None) -> DiscriminatorState:
        """Draws the initial state.

        Args:
          key: random key.
          images: ``[1, H, W, 3]``, only its shape matters.
          condition: the same for the condition, or None if there is none.

        Returns:
          The state at step 0.
        """
        variables = self.discriminator.init(key, images, condition)
        return DiscriminatorState(
            params=variables["params"],
            spectral=variables.get("spectral", {}),
            opt_state=self.optimizer.init(variables["params"]),
        )

    def update(
        self,
        state: DiscriminatorState,
        real: Array,
        fake: Array,
        condition: Array | None = None,
        *,
        keys: Array,
        step: Array,
        axis_name: str | None,
    ) -> tuple[DiscriminatorState, Metrics]:
        """Takes one step of the discriminator.

        Args:
          state: the discriminator.
          real: ``[B, H, W, 3]`` in [-1, 1].
          fake: translated images, the same; no gradient flows into them.
          condition: the originals of both, or None.
          keys: ``[B]`` random keys, one for each example.
          step: steps done, for the lazy penalty.
          axis_name: the mapped axis over which gradients are averaged, or None.

        Returns:
          The next state, and the metrics of this device.
        """
        gradient, spectral, reports = mean_over_microbatches(
            lambda part: self._gradient(state, *part, step=step),
            (real, lax.stop_gradient(fake), condition, keys),
            self.microbatches,
        )
        gradient = mean_over_devices(gradient, axis_name)
        reports["gradient_norm"] = optax.tree.norm(gradient)
        updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
        next_state = DiscriminatorState(
            params=optax.apply_updates(state.params, updates),
            spectral=spectral,
            opt_state=opt_state,
        )
        return next_state, reports

    def _gradient(
        self,
        state: DiscriminatorState,
        real: Array,
        fake: Array,
        condition: Array | None,
        keys: Array,
        *,
        step: Array,
    ) -> tuple[PyTree, PyTree, Metrics]:
        """Returns the gradient, the next statistics of the spectral norms, and metrics."""
        real_keys, fake_keys = example_streams(keys, 2)
        real, real_condition = self._augmented(real_keys, real, condition)
        fake, fake_condition = self._augmented(fake_keys, fake, condition)
        images = jnp.concatenate([real, fake])
        conditions = None
        if real_condition is not None and fake_condition is not None:
            conditions = jnp.concatenate([real_condition, fake_condition])

        def objective(params: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
            variables = {"params": params, "spectral": state.spectral}
            judged, changed = self.discriminator.apply(
                variables, images, conditions, update_stats=True, mutable=["spectral"]
            )
            pairs = [jnp.split(logits, 2) for logits in judged.logits]
            loss = _mean_over_scales(discriminator_loss(self.loss, *pair) for pair in pairs)
            each = [probabilities(self.loss, *pair) for pair in pairs]
            of_real, of_fake = (_mean_over_scales(found) for found in zip(*each, strict=True))
            reports = {
                "loss": loss,
                "probability_real": of_real,
                "probability_fake": of_fake,
                "probability_gap": of_real - of_fake,
            }
            if (self.r1 or self.r2) and self.discriminator.patch_scales:
                loss += lax.cond(
                    step % self.penalty_every == 0,
                    lambda: self._penalty(variables, real, real_condition, fake, fake_condition),
                    lambda: jnp.zeros((), jnp.float32),
                )
            return loss, (changed.get("spectral", {}), reports)

        gradient, (spectral, reports) = jax.grad(objective, has_aux=True)(state.params)
        return gradient, spectral, reports

    def judge(
        self,
        state: DiscriminatorState,
        images: Array,
        condition: Array | None = None,
        *,
        keys: Array,
    ) -> DiscriminatorOutput:
        """Judges augmented images without updating the spectral statistics.

        Args:
          state: the discriminator.
          images: ``[B, H, W, 3]`` in [-1, 1].
          condition: their originals, or None.
          keys: ``[B]`` random keys, one for each example.
        """
        images, condition = self._augmented(keys, images, condition)
        variables = {"params": state.params, "spectral": state.spectral}
        judged: Any = self.discriminator.apply(variables, images, condition)
        return judged

    def generator_loss(
        self, fake: DiscriminatorOutput, real: DiscriminatorOutput | None = None
    ) -> Array:
        """The loss of a generator, float32 scalar.

        Args:
          fake: the discriminator's output for translated images.
          real: that for real images, used by the relativistic loss only.
        """
        return _compared(functools.partial(generator_loss, self.loss), fake, real)

    def probability(
        self, fake: DiscriminatorOutput, real: DiscriminatorOutput | None = None
    ) -> Array:
        """The mean probability that translated images are real, see `probabilities`.

        Args:
          fake: the discriminator's output for translated images.
          real: that for real images, used by the relativistic loss only.
        """
        return _compared(lambda *logits: probabilities(self.loss, *logits)[1], fake, real)

    @property
    def compares(self) -> bool:
        """True if the generator's loss uses real images."""
        return self.loss == "relativistic"

    def _augmented(
        self, keys: Array, images: Array, condition: Array | None
    ) -> tuple[Array, Array | None]:
        images = augment(keys, images, self.augmentation)
        if condition is not None:  # With the same keys, so that the two still match.
            condition = augment(keys, condition, self.augmentation)
        return images, condition

    def _penalty(
        self,
        variables: PyTree,
        real: Array,
        real_condition: Array | None,
        fake: Array,
        fake_condition: Array | None,
    ) -> Array:
        def penalty(discriminator: Discriminator, variables: PyTree, *inputs: Any) -> Array:
            total = jnp.zeros((), jnp.float32)
            for scale, images, condition in zip(
                (self.r1, self.r2), inputs[:2], inputs[2:], strict=True
            ):
                if not scale:
                    continue

                def score(images: Array, condition: Array | None = condition) -> Array:
                    # The norms are those of the loss: they do not depend on the images.
                    judged: Any = discriminator.apply(variables, images, condition)
                    return jnp.stack([each.mean((1, 2, 3)) for each in judged.logits]).sum(0)

                total += scale * gradient_penalty(score, images).mean()
            return total * self.penalty_every

        # Heads on frozen features have none: through the network it would cost more than all else.
        patches = self.discriminator.clone(kind="patch")
        # Differentiated twice, XLA's convolutions are eight times slower on CPUs.
        return lax.platform_dependent(
            variables,
            real,
            fake,
            real_condition,
            fake_condition,
            cpu=functools.partial(penalty, patches.clone(by_patches=True)),
            default=functools.partial(penalty, patches),
        )


def example_keys(root: Array, name: str, step: Array, batch: int, axis_name: str | None) -> Array:
    """Returns a random key for each example of this device.

    It depends on the example's place in the global batch, not on the number of devices.

    Args:
      root: the run's root key.
      name: name of the stream.
      step: steps done.
      batch: examples on this device.
      axis_name: the mapped axis of the devices, or None on a single one.
    """
    index = device_index(axis_name) * batch + jnp.arange(batch)
    return jax.vmap(lambda i: stream_key(root, name, step, i))(index)


def example_streams(keys: Array, count: int) -> Array:
    """Splits every example's key: ``[B]`` keys to ``[count, B]``."""
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys)


def _compared(
    function: Callable[[Array, Array], Array],
    fake: DiscriminatorOutput,
    real: DiscriminatorOutput | None,
) -> Array:
    """Mean of a function of real and fake logits; without real ones it must not depend on them."""
    pairs = zip((real or fake).logits, fake.logits, strict=True)
    return _mean_over_scales(function(*logits) for logits in pairs)


def _mean_over_scales(losses: Iterable[Array]) -> Array:
    """Mean over patches, then over scales, so that every scale counts the same."""
    return jnp.stack([loss.mean() for loss in losses]).mean()
