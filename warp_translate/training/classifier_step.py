"""One step of a domain classifier's training."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from warp_translate.models import DomainClassifier
from warp_translate.ops.ood_images import PIECES, draw_outlier
from warp_translate.settings import weight
from warp_translate.training.accumulation import mean_over_microbatches
from warp_translate.training.base import Batch, Training
from warp_translate.training.discriminator_training import example_keys
from warp_translate.training.optim import init_network, update_network
from warp_translate.training.parallel import mean_over_devices
from warp_translate.training.regularization import Metrics
from warp_translate.training.rng import stream_key
from warp_translate.training.state import ClassifierState
from warp_translate.types import Array, PyTree, to_float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierTraining(Training):
    """Training of a domain classifier.

    It also learns to give equal probabilities to images of no domain (outlier exposure, Hendrycks
    et al. 2019). Half of them are its own images with pieces exchanged, which have the colors and
    textures of a domain; half are clouds of colors with the spectrum of photographs.

    A batch holds "images", uint8 ``[B, D, S, S, 3]``: an image of each domain per example.

    Attributes:
      classifier: the module.
      optimizer: transforms the gradients.
    """

    classifier: DomainClassifier
    optimizer: optax.GradientTransformation
    outliers: float = weight(0.5, "loss on images of no domain")

    results: ClassVar[tuple[str, ...]] = ("classifier",)

    def check_size(self, size: int) -> None:
        """See `Training.check_size`."""
        smallest = 2**self.classifier.stages
        if size < smallest or size % PIECES:
            raise ValueError(
                f"training size {size} must be a multiple of {PIECES} and at least {smallest} for "
                f"the classifier's {self.classifier.stages} stages"
            )

    def init(self, root: Array, size: int) -> ClassifierState:
        """See `Training.init`."""
        self.check_size(size)
        key = stream_key(root, "classifier_init")
        params = self.classifier.init(key, jnp.zeros((1, size, size, 3)))["params"]
        return ClassifierState(
            step=jnp.zeros((), jnp.int32), classifier=init_network(params, self.optimizer)
        )

    def probabilities(self, params: PyTree, images: Array) -> Array:
        """Maps ``[B, S, S, 3]`` in [-1, 1] to probabilities ``[B, domains]``."""
        return jax.nn.softmax(self._logits(params, images))

    def step(
        self, state: ClassifierState, batch: Batch, root: Array, *, axis_name: str | None = None
    ) -> tuple[ClassifierState, Metrics]:
        """Updates the classifier."""
        images = to_float(batch["images"])
        keys = example_keys(root, "outliers", state.step, len(images), axis_name)

        def one(part: tuple[Array, Array]) -> tuple[PyTree, Metrics]:
            return jax.grad(self._loss, has_aux=True)(state.classifier.params, *part)

        gradient, reports = mean_over_devices(
            mean_over_microbatches(one, (images, keys), self.microbatches), axis_name
        )
        following = ClassifierState(
            step=state.step + 1,
            classifier=update_network(
                state.classifier,
                gradient,
                self.optimizer,
                step=state.step,
                ema_decay=self.ema_decay,
            ),
        )
        reports["classifier/gradient_norm"] = optax.tree.norm(gradient)
        return following, {name: jnp.float32(value) for name, value in reports.items()}

    def _logits(self, params: PyTree, images: Array) -> Array:
        logits: Any = self.classifier.apply({"params": params}, images)
        return logits

    def _loss(self, params: PyTree, images: Array, keys: Array) -> tuple[Array, Metrics]:
        count, domains = images.shape[:2]
        labels = jnp.tile(jnp.arange(domains), count)
        shown = images.reshape(-1, *images.shape[2:])
        if self.outliers:
            shown = jnp.concatenate([shown, jax.vmap(draw_outlier)(keys, images)])
        logits = self._logits(params, shown)
        logits, outlier_logits = logits[: len(labels)], logits[len(labels) :]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = (logits.argmax(-1) == labels).mean()
        reports = {"classifier/cross_entropy": entropy, "classifier/accuracy": accuracy}
        loss = entropy
        if self.outliers:
            even = -jax.nn.log_softmax(outlier_logits).mean()
            reports["classifier/outliers"] = even - jnp.log(domains)
            loss = loss + self.outliers * even
        return loss, {**reports, "classifier/loss": loss}
