"""Displacement: its bound, and the size at which it is predicted.

Claim: a bound of 8 reduced pixels is enough for drawings at 64 px, a larger one costs nothing, and
a tiny one disables the warp. Predicted at the original size, the displacement can follow edges that
the reduced image does not show.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        **{
            f"bound {bound:g} px": {"generator.max_displacement": bound}
            for bound in (1.0, 4.0, 8.0, 16.0)
        },
        "bound 8 px, read off at the reduced size": {"generator.displacement_size": "reduced"},
    }
)
