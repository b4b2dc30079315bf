import pytest

from warp_translate.data.names import PAIRED, UNPAIRED, check_paired, check_unpaired
from warp_translate.errors import UserError

EITHER = {"tfds_folder"}  # Its features decide.
DOMAINS = {*UNPAIRED, "cycle_gan/apple2orange"}


def test_every_name_except_tfds_folder_suits_one_training():
    assert set(PAIRED) & DOMAINS == EITHER
    for name in EITHER:
        check_paired(name)
        check_unpaired(name)
    for name in set(PAIRED) - EITHER:
        check_paired(name)
        with pytest.raises(UserError, match=r"holds pairs.*use one of openmoji_gender_unpaired"):
            check_unpaired(name)
    for name in DOMAINS - EITHER:
        check_unpaired(name)
        with pytest.raises(UserError, match=r"without pairs.*use one of openmoji_gender, paired"):
            check_paired(name)
    for check in (check_paired, check_unpaired):
        with pytest.raises(UserError, match="'domain_folders' is for a classifier"):
            check("domain_folders")


@pytest.mark.parametrize(
    ("check", "name", "hint"),
    [
        (check_paired, "openmoji_gendr", "did you mean openmoji_gender?"),
        (check_paired, "paired-folder", "did you mean paired_folder?"),
        (check_paired, "zzz", "use one of openmoji_gender, paired_folder"),
        (check_unpaired, "portrait", "did you mean portraits?"),
        (check_unpaired, "unpaired-folder", "did you mean unpaired_folder?"),
        (check_unpaired, "horse2zebra", "did you mean cycle_gan/horse2zebra?"),
        (check_unpaired, "cycle_gan/", "did you mean cycle_gan/horse2zebra?"),
        (check_unpaired, "zzz", "use one of openmoji_gender_unpaired, unpaired_folder, portraits"),
    ],
)
def test_unknown_names(check, name, hint):
    with pytest.raises(UserError) as error:
        check(name)
    assert repr(name) in str(error.value) and hint in str(error.value)
    assert "\n" not in str(error.value)
