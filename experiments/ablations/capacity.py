"""Width and blocks: the best use of multiplications at the reduced size.

Claim: at factor 2 a trunk can be twice as wide as at factor 1 for the same cost. Beyond width 24
and six blocks, drawings at 64 px gain little.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        **{f"width {width}": {"generator.width": width} for width in (8, 16, 24, 32, 48)},
        **{f"{blocks} blocks": {"generator.blocks": blocks} for blocks in (1, 3, 9)},
    }
)
