import hashlib

import pytest

from warp_translate.data.folder_layout import fingerprint_files, hold_out


@pytest.mark.parametrize(
    ("count", "share", "held"), [(2, 0.1, 1), (4, 0.1, 1), (30, 0.1, 3), (16, 0.2, 3)]
)
def test_the_smallest_hashes_are_held_out(count, share, held):
    items = [(f"{i:02}.png", i) for i in range(count)]
    kept, out = hold_out(items, lambda item: item[0], share)
    assert len(out) == held
    assert sorted(kept + out) == items
    assert list(kept) == sorted(kept) and list(out) == sorted(out)

    def digest(item):
        return hashlib.sha256(item[0].encode()).hexdigest()

    assert max(map(digest, out)) < min(map(digest, kept))


def test_one_item_cannot_be_split():
    with pytest.raises(ValueError, match="1 items"):
        hold_out(["a"], str, 0.1)


def test_fingerprint_tells_which_split_a_file_is_in(tmp_path):
    """Also where the files in a row stay the same, and only the border between splits moves."""
    a, b, c = (tmp_path / name for name in "abc")
    for path in (a, b, c):
        path.write_bytes(b"x")
    seen = {
        fingerprint_files(tmp_path, {"one": one, "two": two})
        for one, two in (([a], [b, c]), ([a, b], [c]), ([a, b, c], []))
    }
    assert len(seen) == 3
    assert all(len(found) == 16 and set(found) <= set("0123456789abcdef") for found in seen)
    again = fingerprint_files(tmp_path, {"two": [b, c], "one": [a]})
    assert again in seen
