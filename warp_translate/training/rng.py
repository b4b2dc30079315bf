"""Derived random keys: a resumed run draws the same numbers as an uninterrupted one."""

import zlib

import jax

from warp_translate.types import Array


def stream_key(root: Array, name: str, *indices: int | Array) -> Array:
    """The key of a named stream, folded from the root and any number of indices.

    Args:
      root: the run's root key.
      name: purpose of the randomness, for example "generator_init".
      *indices: integers or traced scalars, for example the step and the device.

    Returns:
      A key. Different names or indices give independent keys; equal ones give the same key on every
      machine and in every run.
    """
    key = jax.random.fold_in(root, zlib.crc32(name.encode()))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key
