"""Reduction: the filter that makes the trunk's image.

Claim: the box average is as good as a wider filter, and cheaper; taking single pixels aliases, and
the maps follow the noise.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        f"{reduction}, factor {factor}": {"method.reduction": reduction, "method.factor": factor}
        for reduction in ("box", "linear", "nearest")
        for factor in (2, 4)
    }
)
