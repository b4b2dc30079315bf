"""What of a generator is not in its parameters, as bundles store it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from warp_translate import sealed
from warp_translate.constants import Border, DisplacementSize, Fusion
from warp_translate.errors import UserError

_LEAST = {"width": 1, "head_width": 1, "head_kernel": 3}
_MOST = 1 << 16  # Of any number, so that whatever is computed of several is one.


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A generator and how its maps become the output; see ``models.Generator`` and ``translate``.

    Attributes:
      width: channels of the trunk's first layer.
      blocks: residual blocks of the trunk.
      head: "projected" or "literal".
      head_width: channels of the projected head.
      max_displacement: bound of each component of the displacement, in reduced pixels.
      mask_bias: logit added to the mask's.
      mask_weights: which image the mask multiplies, "pretranslated" or "warped".
      fusion: how the output is put together, see ``contract.Fusion``.
      head_kernel: side of the kernel at the original size.
      displacement_size: where the displacement is read off.
      border: what the trunk's convolutions see beyond the border.
    """

    width: int
    blocks: int
    head: Literal["projected", "literal"]
    head_width: int
    max_displacement: float
    mask_bias: float
    mask_weights: Literal["pretranslated", "warped"]
    fusion: Fusion
    # What came later, as it was before.
    head_kernel: int = 3
    displacement_size: DisplacementSize = "original"
    border: Border = "reflect"

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], place: str) -> "Architecture":
        """Checks and takes over what a file says.

        Args:
          fields: the names and values of the attributes.
          place: what an error calls the file.

        Raises:
          UserError: a field is missing, unknown or of no possible value.
        """
        known = dataclasses.fields(cls)
        expected = {field.name: field.type for field in known}
        later = {field.name: field.default for field in known} | dict(fields)
        fields = {name: value for name, value in later.items() if value is not dataclasses.MISSING}
        for name in expected.keys() ^ fields.keys():
            state = "is missing" if name in expected else "is unknown"
            raise UserError(
                f"{place}: architecture.{sealed.short(name)[1:-1]} {state}; export the bundle again"
            )
        for name, kind in expected.items():
            value = fields[name]
            if kind in (int, float):
                good = isinstance(value, int | kind) and not isinstance(value, bool)
                least = -_MOST if name == "mask_bias" else _LEAST.get(name, 0)
                good = good and least <= value <= _MOST
                good = good and (name != "head_kernel" or value % 2 == 1)
            else:
                good = value in get_args(kind)
            if not good:
                raise UserError(
                    f"{place}: architecture.{name} cannot be {sealed.short(value)}; export the "
                    "bundle again"
                )
        return cls(**fields)
