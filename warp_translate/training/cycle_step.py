"""One step of cycle training: two generators and two discriminators on unpaired domains."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import flax
import jax.numpy as jnp
import optax

from warp_translate.losses import reconstruction
from warp_translate.models import Fusion, Generator, Translation, translate
from warp_translate.ops import MaskWeights, Reduction, box_downsample
from warp_translate.training.accumulation import forward
from warp_translate.training.discriminator_training import Adversary, example_keys, example_streams
from warp_translate.training.image_pool import empty_pool, exchange
from warp_translate.training.networks import check_size, init_params
from warp_translate.training.optim import init_network, update_network
from warp_translate.training.parallel import device_index, mean_over_devices
from warp_translate.training.regularization import Metrics, branch_reports, weighted_sum
from warp_translate.training.rng import stream_key
from warp_translate.training.state import CycleState, DiscriminatorState
from warp_translate.training.unpaired import (
    UnpairedLosses,
    direction_terms,
    split_translation,
)
from warp_translate.types import Array, PyTree, to_float

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class CycleLosses(UnpairedLosses):
    """Which losses cycle training uses, and how much of each; a weight of zero costs nothing.

    Every loss is taken in both directions with the same weight, and the generators minimise the
    sum of the two.

    Attributes:
      cycle: L1 between the reduced original and its translation there and back, also reduced: two
        resamplings blur, which costs nothing there.
      cycle_full: the same at the original size.
    """

    cycle: float = 3.0
    cycle_full: float = 0.3


@flax.struct.dataclass
class _Translations:
    """All that one generator made of a batch.

    Attributes:
      forth: the images of its source domain, translated.
      back: the other generator's outputs of these images' counterparts, translated back; None
        without a cycle loss.
      same: the images of its target domain, translated; None without an identity loss.
    """

    forth: Translation
    back: Translation | None
    same: Translation | None


@dataclasses.dataclass(frozen=True)
class CycleTraining:
    """Cycle training as functions of explicit state.

    Attributes:
      generator: the generator module of both directions.
      generator_optimizer: transforms the gradients of each.
      adversary: the discriminator of each domain and its training.
      losses: the losses and their weights.
      factor: how many times smaller the trunk's image is.
      mask_weights: which image the mask multiplies.
      fusion: how the output is put together.
      reduction: how the reduced image is made.
      warp_kernels: whether TPUs may warp by kernels, see ``models.translate``.
      deterministic: whether GPUs sum the gradient of the way back in one order, see there.
      ema_decay: decay of the generators' moving averages.
      pool_size: earlier translations that each device keeps of each domain.
      microbatches: parts of a device's batch whose gradients are taken one after the other.
    """

    generator: Generator
    generator_optimizer: optax.GradientTransformation
    adversary: Adversary
    losses: CycleLosses
    factor: int
    mask_weights: MaskWeights = "pretranslated"
    fusion: Fusion = "full"
    reduction: Reduction = "box"
    warp_kernels: bool = False
    deterministic: bool = False
    ema_decay: float = 0.999
    pool_size: int = 50
    microbatches: int = 1

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

    @property
    def results(self) -> tuple[str, ...]:
        """Names of the networks in the state that the training is for: the generators."""
        return ("a_to_b", "b_to_a")

    @property
    def axes(self) -> CycleState:
        """Which part of the state each device has for itself, see `parallel.Replicas`."""
        shared: Any = None
        own: Any = 0
        return CycleState(
            step=shared,
            a_to_b=shared,
            b_to_a=shared,
            d_a=shared,
            d_b=shared,
            pool_a=own,
            pool_b=own,
        )

    def check_size(self, size: int) -> None:
        """Checks that training images of so many pixels a side suit the networks.

        Raises:
          ValueError: they do not.
        """
        check_size(size, self.generator, self.adversary.discriminator, self.factor)

    def init(self, root: Array, size: int) -> CycleState:
        """Draws the initial state; the two generators start from different keys.

        Args:
          root: the run's root key.
          size: side of the training images in pixels.

        Returns:
          The state at step 0, as one device sees it.

        Raises:
          ValueError: the size does not suit the networks.
        """
        self.check_size(size)
        images = jnp.zeros((1, size, size, 3))

        def generator(name: str) -> PyTree:
            params = init_params(self.generator, stream_key(root, name), size, self.factor)
            return init_network(params, self.generator_optimizer)

        def discriminator(name: str) -> DiscriminatorState:
            return self.adversary.init(stream_key(root, name), images)

        return CycleState(
            step=jnp.zeros((), jnp.int32),
            a_to_b=generator("a_to_b_init"),
            b_to_a=generator("b_to_a_init"),
            d_a=discriminator("d_a_init"),
            d_b=discriminator("d_b_init"),
            pool_a=empty_pool(self.pool_size, size, size),
            pool_b=empty_pool(self.pool_size, size, size),
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
            deterministic=self.deterministic,
        )

    def step(
        self, state: CycleState, batch: Batch, root: Array, *, axis_name: str | None = None
    ) -> tuple[CycleState, Metrics]:
        """Updates both discriminators, then both generators under the new discriminators.

        As in paired training the generators run once. Without a pool any split of a batch over
        devices gives the same step; with one, every device shows its own earlier translations.

        Args:
          state: the state.
          batch: "source", images of A, and "target", images of B, uint8 ``[B, H, W, 3]`` each; they
            have nothing to do with each other.
          root: the run's root key.
          axis_name: the mapped axis of the devices, or None on a single one.

        Returns:
          The next state and the metrics, float32 scalars averaged over devices.
        """
        a, b = to_float(batch["source"]), to_float(batch["target"])
        keys = example_keys(root, "augmentation", state.step, len(a), axis_name)
        d_a_keys, d_b_keys, to_a_keys, to_b_keys = example_streams(keys, 4)
        pool_key = stream_key(root, "image_pool", state.step, device_index(axis_name))
        (made_a, made_b), back = forward(
            lambda params, part: self._translate_all(params[0], params[1], part["a"], part["b"]),
            (state.a_to_b.params, state.b_to_a.params),
            {"a": a, "b": b, "to_a_keys": to_a_keys, "to_b_keys": to_b_keys},
            self.microbatches,
            shown=lambda made: (made[1].forth.output, made[0].forth.output),
        )

        pool_a, shown_a = exchange(state.pool_a, made_a, stream_key(pool_key, "a"))
        pool_b, shown_b = exchange(state.pool_b, made_b, stream_key(pool_key, "b"))
        d_a, d_a_reports = self.adversary.update(
            state.d_a,
            a,
            shown_a,
            keys=d_a_keys,
            step=state.step,
            axis_name=axis_name,
        )
        d_b, d_b_reports = self.adversary.update(
            state.d_b,
            b,
            shown_b,
            keys=d_b_keys,
            step=state.step,
            axis_name=axis_name,
        )

        def objective(
            _: PyTree, made: tuple[_Translations, _Translations], part: Mapping[str, Array]
        ) -> tuple[Array, tuple[Metrics, Metrics]]:
            (to_b, to_a), a, b = made, part["a"], part["b"]
            loss_b, reports_b = self._generator_loss(
                to_b, to_a, a, b, d_b, part["to_b_keys"], state.step
            )
            loss_a, reports_a = self._generator_loss(
                to_a, to_b, b, a, d_a, part["to_a_keys"], state.step
            )
            return loss_b + loss_a, (reports_b, reports_a)

        gradients, (to_b_reports, to_a_reports) = back(objective)
        gradients = mean_over_devices(gradients, axis_name)
        generators = [
            update_network(
                generator,
                gradient,
                self.generator_optimizer,
                step=state.step,
                ema_decay=self.ema_decay,
            )
            for generator, gradient in zip((state.a_to_b, state.b_to_a), gradients, strict=True)
        ]
        metrics: Metrics = {}
        for name, gradient, reports in (
            ("a_to_b", gradients[0], to_b_reports),
            ("b_to_a", gradients[1], to_a_reports),
        ):
            reports = {**reports, "gradient_norm": optax.tree.norm(gradient)}
            metrics |= {f"{name}/{key}": value for key, value in reports.items()}
        for name, reports in (("d_a", d_a_reports), ("d_b", d_b_reports)):
            metrics |= {f"{name}/{key}": value for key, value in reports.items()}
        next_state = CycleState(
            step=state.step + 1,
            a_to_b=generators[0],
            b_to_a=generators[1],
            d_a=d_a,
            d_b=d_b,
            pool_a=pool_a,
            pool_b=pool_b,
        )
        return next_state, mean_over_devices(metrics, axis_name)

    def _translate_all(
        self, a_to_b: PyTree, b_to_a: PyTree, a: Array, b: Array
    ) -> tuple[_Translations, _Translations]:
        def forth_and_same(
            params: PyTree, source: Array, target: Array
        ) -> tuple[Translation, Translation | None]:
            if not self.losses.translates_target:
                return self.translate(params, source), None
            # No example influences another, so the two may share a pass.
            both = self.translate(params, jnp.concatenate([source, target]))
            return split_translation(both, len(source))

        to_b, same_b = forth_and_same(a_to_b, a, b)
        to_a, same_a = forth_and_same(b_to_a, b, a)
        back_a = back_b = None
        if self.losses.cycle or self.losses.cycle_full:
            back_a = self.translate(b_to_a, to_b.output)
            back_b = self.translate(a_to_b, to_a.output)
        return _Translations(to_b, back_b, same_b), _Translations(to_a, back_a, same_a)

    def _generator_loss(
        self,
        made: _Translations,
        other: _Translations,
        source: Array,
        target: Array,
        discriminator: DiscriminatorState,
        keys: Array,
        step: Array,
    ) -> tuple[Array, Metrics]:
        """The loss of one direction: from ``source`` to ``target`` and back by the other."""
        losses = self.losses
        terms = direction_terms(
            losses,
            self.adversary,
            discriminator,
            made.forth,
            made.same,
            target,
            factor=self.factor,
            keys=keys,
            step=step,
        )
        if other.back is not None:
            returned = other.back.output
            terms["cycle"] = (
                losses.cycle,
                lambda: reconstruction.l1(
                    box_downsample(returned, self.factor), box_downsample(source, self.factor)
                ),
            )
            terms["cycle_full"] = (losses.cycle_full, lambda: reconstruction.l1(returned, source))
        total, reports = weighted_sum(terms)
        return total, {**reports, "loss": total, **branch_reports(made.forth)}
