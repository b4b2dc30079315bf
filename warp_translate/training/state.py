"""The training state: one frozen tree that a checkpoint holds whole."""

import flax

from warp_translate.training.image_pool import ImagePool
from warp_translate.types import Array, PyTree


@flax.struct.dataclass
class NetworkState:
    """A generator or a classifier in training.

    Attributes:
      params: its parameters.
      opt_state: the state of its optimiser.
      ema: moving average of its parameters, what is evaluated and exported.
    """

    params: PyTree
    opt_state: PyTree
    ema: PyTree


@flax.struct.dataclass
class DiscriminatorState:
    """A discriminator in training.

    Attributes:
      params: its parameters.
      spectral: the vectors of its spectral norms, empty without any.
      opt_state: the state of its optimiser.
    """

    params: PyTree
    spectral: PyTree
    opt_state: PyTree


@flax.struct.dataclass
class PairedState:
    """Everything that paired training changes.

    Attributes:
      step: number of steps done, int32 scalar.
      generator: the generator.
      discriminator: the discriminator.
    """

    step: Array
    generator: NetworkState
    discriminator: DiscriminatorState


@flax.struct.dataclass
class CycleState:
    """Everything that cycle training changes.

    Attributes:
      step: number of steps done, int32 scalar.
      a_to_b: the generator from A to B.
      b_to_a: the generator from B to A.
      d_a: the discriminator of domain A.
      d_b: the discriminator of domain B.
      pool_a: earlier translations to A; each device has its own. None without a pool.
      pool_b: the same of translations to B.
    """

    step: Array
    a_to_b: NetworkState
    b_to_a: NetworkState
    d_a: DiscriminatorState
    d_b: DiscriminatorState
    pool_a: ImagePool | None
    pool_b: ImagePool | None


@flax.struct.dataclass
class ProjectionState:
    """A patch projection in training.

    Attributes:
      params: its parameters.
      opt_state: the state of its optimiser.
    """

    params: PyTree
    opt_state: PyTree


@flax.struct.dataclass
class ContrastiveState:
    """Everything that one-sided contrastive training changes.

    Attributes:
      step: number of steps done, int32 scalar.
      a_to_b: the generator from A to B.
      projection: the embedding of its features.
      d_b: the discriminator of domain B.
      pool_b: earlier translations to B; each device has its own. None without a pool.
    """

    step: Array
    a_to_b: NetworkState
    projection: ProjectionState
    d_b: DiscriminatorState
    pool_b: ImagePool | None


@flax.struct.dataclass
class ClassifierState:
    """Everything that the training of a domain classifier changes.

    Attributes:
      step: number of steps done, int32 scalar.
      classifier: the classifier.
    """

    step: Array
    classifier: NetworkState
