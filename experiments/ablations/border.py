"""Border: padding of the trunk's convolutions.

Claim: it hardly matters for drawings on white; zeros darken the border of photographs.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {border: {"generator.border": border} for border in ("reflect", "repeat", "zero")}
)
