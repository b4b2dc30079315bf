"""What the generator costs at factors 1, 2, 4 and 8: operations and time, in one run.

    python -m experiments.benchmarks.generator_cost --size=256 --repeats=20 --output=cost.json

The same body and parameters at every factor. Operations are those of the compiled program. Times
are taken in turns, factor by factor, so that a change of the machine's speed meets all alike; what
is compared is the median of the ratios to factor 1 in the same turn.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from absl import app, flags

from experiments import base
from experiments.benchmarks import measure
from warp_translate.evaluation.cost import compiled_macs
from warp_translate.models import Generator, translate

_SIZE = flags.DEFINE_integer("size", 256, "Side of the image in pixels.")
_FACTORS = flags.DEFINE_list(
    "factors", ["1", "2", "4", "8"], "Factors; the first is compared with."
)
_REPEATS = flags.DEFINE_integer("repeats", 20, "Turns that are timed.")
_HEAD = flags.DEFINE_string("head", "projected", "projected or literal.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    fields = base.get_config("paired").generator
    generator = Generator(
        width=fields.width,
        blocks=fields.blocks,
        head=_HEAD.value,
        head_width=fields.head_width,
        max_displacement=fields.max_displacement,
    )
    factors = [int(factor) for factor in _FACTORS.value]
    key = jax.random.key(0)
    image = jax.random.uniform(key, (1, _SIZE.value, _SIZE.value, 3), minval=-1.0)
    reduced = jnp.zeros((1, _SIZE.value // 2, _SIZE.value // 2, 3))
    params = jax.jit(generator.init, static_argnums=3)(key, reduced, image, 2)["params"]

    def run(factor: int):
        return lambda params, image: translate(generator, params, image, factor).output

    macs = {factor: compiled_macs(run(factor), params, image) for factor in factors}
    compiled = {factor: jax.jit(run(factor)) for factor in factors}
    seconds = measure.take_turns(
        {str(f): functools.partial(compiled[f], params, image) for f in factors}, _REPEATS.value
    )
    first = factors[0]
    rows = [
        {
            "factor": factor,
            "GMAC": macs[factor] / 1e9,
            "MAC share": macs[factor] / macs[first],
            "time share (quartiles)": measure.ratio(seconds[str(factor)], seconds[str(first)]),
        }
        for factor in factors
    ]
    about = measure.environment(size=_SIZE.value, repeats=_REPEATS.value, head=_HEAD.value)
    measure.publish(about, rows, _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
