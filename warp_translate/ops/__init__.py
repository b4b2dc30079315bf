"""Array functions at full size: warp, fuse and resize."""

from warp_translate.ops.fuse import MaskWeights, fuse
from warp_translate.ops.resize import Reduction, box_downsample, downsample, upsample_bilinear
from warp_translate.ops.warp import bilinear_warp, warp_and_fuse, warp_and_fuse_rows

__all__ = [
    "MaskWeights",
    "Reduction",
    "bilinear_warp",
    "box_downsample",
    "downsample",
    "fuse",
    "upsample_bilinear",
    "warp_and_fuse",
    "warp_and_fuse_rows",
]
