"""The commands of the console script ``warp-translate``, one module each, and their flags."""
