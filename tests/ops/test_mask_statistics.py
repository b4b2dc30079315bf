import jax.numpy as jnp
import numpy as np

from warp_translate.ops.mask_statistics import mask_saturation


def test_saturation_is_the_share_of_pixels_near_zero_or_one():
    mask = jnp.asarray([[0.0, 0.01, 0.03, 0.5, 0.96], [0.5, 0.5, 0.5, 0.5, 0.99]])
    mask = mask.reshape(2, 5, 1, 1)
    np.testing.assert_allclose(mask_saturation(mask), [0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(mask_saturation(mask, margin=0.05), [0.8, 0.2], rtol=1e-6)
