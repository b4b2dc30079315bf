import pytest

from warp_translate.data.domains import open_domains
from warp_translate.data.sources import prepare
from warp_translate.errors import UserError


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("openmoji_gender", {"size": 32}, "is of pairs"),
        ("portrait", {}, "did you mean portraits"),
        ("openmoji_gender_unpaired", {}, "needs size"),
        ("openmoji_gender_unpaired", {"size": 32, "root": "r"}, "takes no root, got r"),
        ("unpaired_folder", {}, "needs root"),
        ("unpaired_folder", {"root": "r", "size": 32}, "takes no size, got 32"),
        ("unpaired_folder", {"root": "r", "domains": "old_young"}, "takes no domains"),
        ("portraits", {"root": "r"}, "needs domains; give it, male_female or old_young"),
        ("portraits", {"domains": "old_young"}, "needs root"),
        ("cycle_gan/horse2zebra", {"root": "r"}, "takes no root"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, name, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        open_domains(name, tmp_path, **arguments)
    assert name in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_pairs_are_told_what_suits_them(tmp_path):
    with pytest.raises(UserError, match=r"'unpaired_folder' has two domains.*paired_folder"):
        prepare("unpaired_folder", tmp_path, root=tmp_path)
