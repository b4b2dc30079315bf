"""The networks as Linen modules, and the method as a pure function."""

from warp_translate.constants import Fusion
from warp_translate.models.discriminator import Discriminator, DiscriminatorOutput
from warp_translate.models.domain_classifier import DomainClassifier
from warp_translate.models.generator import Generator, GeneratorOutput, Head
from warp_translate.models.translate import Translation, translate

__all__ = [
    "Discriminator",
    "DiscriminatorOutput",
    "DomainClassifier",
    "Fusion",
    "Generator",
    "GeneratorOutput",
    "Head",
    "Translation",
    "translate",
]
