"""Image-to-image translation whose cost does not grow with the resolution of the picture."""

__version__ = "0.1.0"
