"""Damage to files."""

import re


def damage_picture(path, number):
    """Inverts a byte in the data of a PNG in an array_record file.

    Args:
      path: the file.
      number: index of the PNG in the file; may be negative.
    """
    content = bytearray(path.read_bytes())
    places = [found.start() for found in re.finditer(b"IDAT", content)]
    content[places[number] + 20] ^= 0xFF
    path.write_bytes(content)


def flip_bit(path, number):
    """Flips one bit of a file.

    Args:
      path: the file, on a disk or in a bucket.
      number: index of the bit, modulo the size of the file.
    """
    content = bytearray(path.read_bytes())
    number %= 8 * len(content)
    content[number // 8] ^= 1 << number % 8
    path.write_bytes(bytes(content))
