import numpy as np
import pytest

from warp_translate.data.domains import open_domains
from warp_translate.data.openmoji_unpaired import halve_roles
from warp_translate.data.sources import prepare


@pytest.mark.parametrize("count", [0, 1, 2, 61, 62])
def test_halves_part_the_roles(count):
    roles = [3 * i for i in range(count)]
    one, two = halve_roles([*roles, *roles[::-1]])
    assert not one & two
    assert one | two == set(roles)
    assert 0 <= len(two) - len(one) <= 1


def test_halves_are_stable_and_mixed():
    one, two = halve_roles(range(62))
    assert (one, two) == halve_roles(reversed(range(62)))
    # Not a run of the sorted list: both of its halves are in each.
    assert 8 <= sum(role < 31 for role in one) <= 23


@pytest.fixture(scope="module")
def records(openmoji_dir):
    builder = prepare("openmoji_gender", openmoji_dir, size=32)
    return {split: list(builder.as_data_source(split)) for split in ("train", "test")}


@pytest.fixture(scope="module")
def domains(openmoji_dir):
    return open_domains("openmoji_gender_unpaired", openmoji_dir, size=32)


def roles_of(images, records, feature):
    """The roles of images, found again by their bytes."""
    role_of = {record[feature].tobytes(): int(record["role"]) for record in records}
    return {role_of[image.tobytes()] for image in images}


def test_no_pair_and_no_test_role_is_in_training(domains, records):
    men = roles_of(domains.train_a, records["train"], "source")
    women = roles_of(domains.train_b, records["train"], "target")
    test = {int(record["role"]) for record in records["test"]}
    assert not men & women and not men & test and not women & test
    assert men | women == {int(record["role"]) for record in records["train"]}


def test_every_image_of_a_half_is_there_once(domains, records):
    for source, feature in ((domains.train_a, "source"), (domains.train_b, "target")):
        roles = roles_of(source, records["train"], feature)
        expected = [r[feature] for r in records["train"] if int(r["role"]) in roles]
        np.testing.assert_array_equal(list(source), expected)


def test_the_test_has_the_truth(domains, records):
    assert domains.paired_test
    for source, feature in ((domains.test_a, "source"), (domains.test_b, "target")):
        np.testing.assert_array_equal(list(source), [r[feature] for r in records["test"]])


def test_the_domains_are_balanced(domains):
    assert 0.8 < len(domains.train_a) / len(domains.train_b) < 1.25
