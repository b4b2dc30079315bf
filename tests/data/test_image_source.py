import numpy as np
import pytest

from warp_translate.data.image_source import PreparedImages


def test_the_chosen_records_in_the_order_chosen():
    records = [{"left": np.full(3, i), "right": np.full(3, -i)} for i in range(5)]
    images = PreparedImages(records, "right", [3, 0, 4])
    assert len(images) == 3
    assert [int(image[0]) for image in images] == [-3, 0, -4]  # Ends with IndexError.
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"{index} is not within the 3"):
            images[index]
