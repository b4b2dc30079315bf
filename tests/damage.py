"""Damage to files, as disks do it."""

import re


def damage_picture(path, number):
    """Turns the bits of a byte of the data of a PNG in an array_record file.

    Args:
      path: the file.
      number: which PNG of the file, in its order; from its end if negative.
    """
    content = bytearray(path.read_bytes())
    places = [found.start() for found in re.finditer(b"IDAT", content)]
    content[places[number] + 20] ^= 0xFF
    path.write_bytes(content)


def flip_bit(path, number):
    """Turns one bit of a file.

    Args:
      path: the file, on a disk or in a bucket.
      number: which bit, counted from the start of the file; beyond its end, from the start again.
    """
    content = bytearray(path.read_bytes())
    number %= 8 * len(content)
    content[number // 8] ^= 1 << number % 8
    path.write_bytes(bytes(content))
