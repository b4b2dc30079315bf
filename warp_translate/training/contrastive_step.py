"""One step of one-sided training: a generator, a discriminator, and contrast between patches.

The alternative to the second generator (Park et al. 2020, arXiv:2007.15651, CUT): what a patch of
the original shows must be told from its translation at the same place, so that the translation
keeps the content. The encoder is the generator's own, on the reduced images.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from warp_translate.losses.contrastive import patch_contrast
from warp_translate.models import Fusion, Generator, Translation, translate
from warp_translate.models.generator import encode
from warp_translate.models.projection import PatchProjection
from warp_translate.ops import MaskWeights, Reduction, downsample
from warp_translate.training.accumulation import forward
from warp_translate.training.discriminator_training import Adversary, example_keys, example_streams
from warp_translate.training.image_pool import empty_pool, exchange
from warp_translate.training.networks import check_size, init_params
from warp_translate.training.optim import init_network, update_network
from warp_translate.training.parallel import device_index, mean_over_devices
from warp_translate.training.regularization import Metrics, branch_reports, weighted_sum
from warp_translate.training.rng import stream_key
from warp_translate.training.state import ContrastiveState, DiscriminatorState, ProjectionState
from warp_translate.training.unpaired import (
    UnpairedLosses,
    direction_terms,
    split_translation,
)
from warp_translate.types import Array, PyTree, to_float

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class ContrastiveLosses(UnpairedLosses):
    """Which losses one-sided training uses, and how much of each; a weight of zero costs nothing.

    Attributes:
      contrast: contrast between the original and its translation.
      contrast_identity: the same between an image of the target domain and its translation.
      temperature: of both.
      patches: places that are compared in each layer of features.
    """

    contrast: float = 1.0
    contrast_identity: float = 1.0
    temperature: float = 0.07
    patches: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0 or self.patches < 2:
            raise ValueError(
                f"losses.temperature {self.temperature} must be positive and losses.patches "
                f"{self.patches} at least 2"
            )

    @property
    def translates_target(self) -> bool:
        """Whether images of the target domain are translated too."""
        return bool(self.contrast_identity) or super().translates_target


@dataclasses.dataclass(frozen=True)
class ContrastiveTraining:
    """One-sided training as functions of explicit state.

    Attributes:
      generator: the generator module.
      generator_optimizer: transforms its gradients, and those of the projection.
      adversary: the discriminator and its training.
      losses: the losses and their weights.
      factor: how many times smaller the trunk's image is.
      projection: the module that embeds features.
      mask_weights: which image the mask multiplies.
      fusion: how the output is put together.
      reduction: how the reduced image is made.
      warp_kernels: whether TPUs may warp by kernels, see ``models.translate``.
      ema_decay: decay of the generator's moving average.
      pool_size: earlier translations that each device keeps.
      microbatches: parts of a device's batch whose gradients are taken one after the other.
    """

    generator: Generator
    generator_optimizer: optax.GradientTransformation
    adversary: Adversary
    losses: ContrastiveLosses
    factor: int
    projection: PatchProjection = dataclasses.field(default_factory=PatchProjection)
    mask_weights: MaskWeights = "pretranslated"
    fusion: Fusion = "full"
    reduction: Reduction = "box"
    warp_kernels: bool = False
    ema_decay: float = 0.999
    pool_size: int = 0
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
        return ("a_to_b",)

    @property
    def axes(self) -> ContrastiveState:
        """Which part of the state each device has for itself, see `parallel.Replicas`."""
        shared: Any = None
        own: Any = 0
        return ContrastiveState(
            step=shared, a_to_b=shared, projection=shared, d_b=shared, pool_b=own
        )

    def check_size(self, size: int) -> None:
        """Checks that training images of so many pixels a side suit the networks.

        Raises:
          ValueError: they do not.
        """
        check_size(size, self.generator, self.adversary.discriminator, self.factor)

    def init(self, root: Array, size: int) -> ContrastiveState:
        """Draws the initial state.

        Args:
          root: the run's root key.
          size: side of the training images in pixels.

        Returns:
          The state at step 0, as one device sees it.

        Raises:
          ValueError: the size does not suit the networks.
        """
        self.check_size(size)
        params = init_params(self.generator, stream_key(root, "a_to_b_init"), size, self.factor)
        reduced = jnp.zeros((1, size // self.factor, size // self.factor, 3))
        features = encode(self.generator, params, reduced)
        places = [jnp.zeros((1, 1), jnp.int32) for _ in features]
        projection = self.projection.init(stream_key(root, "projection_init"), features, places)[
            "params"
        ]
        return ContrastiveState(
            step=jnp.zeros((), jnp.int32),
            a_to_b=init_network(params, self.generator_optimizer),
            projection=ProjectionState(
                params=projection, opt_state=self.generator_optimizer.init(projection)
            ),
            d_b=self.adversary.init(stream_key(root, "d_b_init"), jnp.zeros((1, size, size, 3))),
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
        )

    def step(
        self, state: ContrastiveState, batch: Batch, root: Array, *, axis_name: str | None = None
    ) -> tuple[ContrastiveState, Metrics]:
        """Updates the discriminator, then generator and projection under the new discriminator.

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
        d_b_keys, generator_keys, place_keys = example_streams(keys, 3)
        pool_key = stream_key(root, "image_pool", state.step, device_index(axis_name))

        def translate_both(
            params: tuple[PyTree, PyTree], part: Mapping[str, Array]
        ) -> tuple[Translation, Translation | None]:
            a, b = part["a"], part["b"]
            if not self.losses.translates_target:
                return self.translate(params[0], a), None
            # No example influences another, so the two may share a pass.
            return split_translation(self.translate(params[0], jnp.concatenate([a, b])), len(a))

        output, back = forward(
            translate_both,
            (state.a_to_b.params, state.projection.params),
            {"a": a, "b": b, "keys": generator_keys, "place_keys": place_keys},
            self.microbatches,
            shown=lambda made: made[0].output,
        )
        pool_b, shown = exchange(state.pool_b, output, pool_key)
        d_b, d_b_reports = self.adversary.update(
            state.d_b,
            b,
            shown,
            keys=d_b_keys,
            step=state.step,
            axis_name=axis_name,
        )

        # The encoder is the generator's own: it learns through the images that it makes and
        # through the features that it reads from them.
        gradients, reports = back(
            lambda params, made, part: self._generator_loss(made, params, d_b, part, state.step)
        )
        gradient, projection_gradient = mean_over_devices(gradients, axis_name)
        updates, opt_state = self.generator_optimizer.update(
            projection_gradient, state.projection.opt_state, state.projection.params
        )
        metrics = {
            f"a_to_b/{name}": value
            for name, value in {
                **reports,
                "gradient_norm": optax.tree.norm(gradient),
            }.items()
        }
        metrics |= {f"d_b/{name}": value for name, value in d_b_reports.items()}
        next_state = ContrastiveState(
            step=state.step + 1,
            a_to_b=update_network(
                state.a_to_b,
                gradient,
                self.generator_optimizer,
                step=state.step,
                ema_decay=self.ema_decay,
            ),
            projection=ProjectionState(
                params=optax.apply_updates(state.projection.params, updates), opt_state=opt_state
            ),
            d_b=d_b,
            pool_b=pool_b,
        )
        return next_state, mean_over_devices(metrics, axis_name)

    def _generator_loss(
        self,
        made: tuple[Translation, Translation | None],
        params: tuple[PyTree, PyTree],
        d_b: DiscriminatorState,
        part: Mapping[str, Array],
        step: Array,
    ) -> tuple[Array, Metrics]:
        losses = self.losses
        (forth, same), a, b = made, part["a"], part["b"]
        terms = direction_terms(
            losses,
            self.adversary,
            d_b,
            forth,
            same,
            b,
            factor=self.factor,
            keys=part["keys"],
            step=step,
        )

        def contrast(translation: Translation, original: Array) -> Array:
            return self._contrast(*params, translation.output, original, part["place_keys"])

        terms["contrast"] = (losses.contrast, lambda: contrast(forth, a))
        if same is not None:
            terms["contrast_identity"] = (losses.contrast_identity, lambda: contrast(same, b))
        total, reports = weighted_sum(terms)
        return total, {**reports, "loss": total, **branch_reports(forth)}

    def _contrast(
        self, params: PyTree, projection: PyTree, output: Array, original: Array, keys: Array
    ) -> Array:
        """Contrast averaged over layers, ``[B]``."""
        translated, reference = (
            encode(self.generator, params, downsample(images, self.factor, self.reduction))
            for images in (output, original)
        )
        places = [
            jax.vmap(lambda key, count=count: _draw(key, count, self.losses.patches))(
                jax.vmap(lambda key, index=index: jax.random.fold_in(key, index))(keys)
            )
            for index, count in enumerate(layer.shape[1] * layer.shape[2] for layer in reference)
        ]
        queries, targets = (
            self.projection.apply({"params": projection}, features, places)
            for features in (translated, reference)
        )
        values = [
            patch_contrast(query, lax.stop_gradient(target), self.losses.temperature)
            for query, target in zip(queries, targets, strict=True)
        ]
        return jnp.stack(values).mean(0)


def _draw(key: Array, count: int, wanted: int) -> Array:
    """Different places below ``count``, as many as wanted or as there are."""
    return jax.random.permutation(key, count)[: min(wanted, count)]
