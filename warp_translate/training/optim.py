"""Optimizers and the moving average of parameters."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from warp_translate.errors import UserError
from warp_translate.settings import InvalidSetting, check, setting
from warp_translate.training.state import NetworkState
from warp_translate.types import Array, PyTree

Schedule = Literal["constant", "linear", "cosine"]


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam with a learning-rate schedule."""

    lr: float = setting(2e-4, "peak learning rate", above=0, maximum=1)
    b1: float = setting(0.5, "decay of the first moment", minimum=0, below=1)
    b2: float = setting(0.999, "decay of the second moment", minimum=0, below=1)
    schedule: Schedule = setting(
        "linear", "shape of the learning rate after the warm-up", choices=Schedule
    )
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", minimum=0)

    def __post_init__(self) -> None:
        check(self, "optim")

    def optimizer(self, total_steps: int) -> optax.GradientTransformation:
        """Returns the optimizer of a run of ``total_steps``."""
        rate = learning_rate_schedule(
            self.schedule, self.lr, total_steps, warmup_steps=self.warmup_steps
        )
        return optax.adam(rate, b1=self.b1, b2=self.b2)


@dataclasses.dataclass(frozen=True)
class AdversarialAdam(Adam):
    """Adam for generators, with another learning rate and decay for discriminators."""

    discriminator_lr: float = setting(
        2e-4, "peak learning rate of the discriminators", above=0, maximum=1
    )
    discriminator_b1: float = setting(
        0.5, "decay of the first moment of the discriminators", minimum=0, below=1
    )

    def discriminator(self) -> Adam:
        """Returns the settings of the discriminators."""
        return dataclasses.replace(self, lr=self.discriminator_lr, b1=self.discriminator_b1)


def learning_rate_schedule(
    schedule: Schedule, learning_rate: float, total_steps: int, *, warmup_steps: int = 0
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    After a linear warm-up, ``linear`` is constant for the first half and then falls linearly to
    zero (Isola et al. 2017, Zhu et al. 2017), and ``cosine`` falls to zero as half a cosine.

    Args:
      schedule: the shape after the warm-up.
      learning_rate: the peak.
      total_steps: length of the run, where zero is reached.
      warmup_steps: fewer than ``total_steps``.

    Raises:
      InvalidSetting: the warm-up does not fit.
    """
    if not 0 <= warmup_steps < max(total_steps, 1):
        raise InvalidSetting(
            f"config.optim.warmup_steps {warmup_steps} must be below config.training.total_steps "
            f"{total_steps}"
        )
    steps = max(total_steps - warmup_steps, 1)
    main = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, max(steps - steps // 2, 1), steps // 2),
        "cosine": optax.cosine_decay_schedule(learning_rate, steps),
    }[schedule]
    warmup = optax.linear_schedule(0.0, learning_rate, max(warmup_steps, 1))
    return optax.join_schedules([warmup, main], [warmup_steps]) if warmup_steps else main


def freeze(
    optimizer: optax.GradientTransformation, parts: str, field: str
) -> optax.GradientTransformation:
    """Returns an optimizer that keeps parts of a network unchanged.

    Args:
      optimizer: of the other parts.
      parts: prefixes of the parameters' paths, separated by commas; "" returns ``optimizer``.
      field: where they are set, for messages.

    Raises:
      UserError: at initialization, if a prefix matches no parameter or all are frozen.
    """
    prefixes = [part.strip() for part in parts.split(",") if part.strip()]
    if not prefixes:
        return optimizer

    def mask(params: PyTree) -> PyTree:
        paths = traverse_util.path_aware_map(lambda path, _: "/".join(map(str, path)), params)
        names = jax.tree.leaves(paths)
        for prefix in prefixes:
            if not any(_within(name, prefix) for name in names):
                known = sorted({name.partition("/")[0] for name in names})
                raise UserError(
                    f"{field}: no parameter is in {prefix!r}; there are {', '.join(known)}, and "
                    "their parts, separated by /"
                )
        frozen = jax.tree.map(lambda name: any(_within(name, each) for each in prefixes), paths)
        if all(jax.tree.leaves(frozen)):
            raise UserError(f"{field}={parts} leaves nothing to train: name fewer parts")
        return frozen

    return optax.chain(optimizer, optax.masked(optax.set_to_zero(), mask))


def _within(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


def ema_update(ema: PyTree, params: PyTree, step: Array, decay: float) -> PyTree:
    """Updates the exponential moving average of the parameters.

    The decay is ``min(decay, (1 + step) / (10 + step))``, which forgets the random start sooner
    (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).

    Args:
      ema: the average.
      params: the new parameters, the same tree.
      step: steps done before this one, a scalar.
      decay: the final decay in [0, 1).

    Returns:
      The new average, with the dtypes of ``ema``.
    """
    step = jnp.asarray(step, jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + rate.astype(old.dtype) * (new - old), ema, params)


def init_network(params: PyTree, optimizer: optax.GradientTransformation) -> NetworkState:
    """The state of a network at step 0."""
    # The average is a copy: the state is donated, and no buffer can be donated twice.
    return NetworkState(
        params=params, opt_state=optimizer.init(params), ema=jax.tree.map(jnp.array, params)
    )


def update_network(
    state: NetworkState,
    gradient: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    step: Array,
    ema_decay: float,
) -> NetworkState:
    """Takes one optimizer step, and updates the moving average.

    Args:
      state: the network.
      gradient: averaged over devices, the tree of its parameters.
      optimizer: transforms the gradient.
      step: steps done before this one, a scalar.
      ema_decay: decay of the moving average.
    """
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return NetworkState(
        params=params, opt_state=opt_state, ema=ema_update(state.ema, params, step, ema_decay)
    )
