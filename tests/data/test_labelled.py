import numpy as np
import pytest

from warp_translate.data import pipeline
from warp_translate.data.domain_folders import scan_domain_folders
from warp_translate.data.labelled import open_labelled
from warp_translate.data.names import check_paired, check_unpaired
from warp_translate.errors import UserError
from warp_translate.image_io import write_image

DOMAINS = ("pear", "apple", "plum")  # Not in alphabetical order, on purpose.


def write(root, folder, count, value):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = np.full((6, 8, 3), value + number, np.uint8)
        write_image(root / folder / f"{number}.png", image)


@pytest.fixture
def parted(tmp_path):
    root = tmp_path / "root"
    for place, domain in enumerate(DOMAINS):
        write(root, f"train/{domain}", 3 + place, 50 * place)
        write(root, f"test/{domain}", 2, 50 * place + 20)
    return root


def values(source):
    return [int(image[0, 0, 0]) for image in source]


def test_folders_are_domains_in_the_order_that_they_are_named(tmp_path, parted):
    found = open_labelled("domain_folders", tmp_path / "data", DOMAINS, root=parted)
    assert found.domains == DOMAINS
    assert [values(each) for each in found.train] == [
        [0, 1, 2],
        [50, 51, 52, 53],
        [100, 101, 102, 103, 104],
    ]
    assert [values(each) for each in found.test] == [[20, 21], [70, 71], [120, 121]]
    two = open_labelled("domain_folders", tmp_path / "data", ("plum", "pear"), root=parted)
    assert [values(each) for each in two.test] == [[120, 121], [20, 21]]


def test_without_test_folders_a_tenth_is_held_out(tmp_path, caplog):
    for place, domain in enumerate(DOMAINS):
        write(tmp_path / "root", domain, 2 if place else 20, 60 * place)
    found = open_labelled("domain_folders", tmp_path / "data", DOMAINS, root=tmp_path / "root")
    assert [len(each) for each in found.test] == [2, 1, 1]
    for place, (train, test) in enumerate(zip(found.train, found.test, strict=True)):
        everything = sorted(values(train) + values(test))
        assert everything == list(range(60 * place, 60 * place + (2 if place else 20)))
    assert "held out are 2 of pear, 1 of apple, 1 of plum" in caplog.text
    again = scan_domain_folders(tmp_path / "root", DOMAINS)
    assert scan_domain_folders(tmp_path / "root", DOMAINS).splits == again.splits


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        (("pear",), "give two different names or more"),
        (("pear", "pear"), "give two different names or more"),
        (("pear", "fig"), r"train holds apple/, pear/, plum/, but no folder fig/"),
    ],
)
def test_names_that_do_not_fit_the_folders_are_told(tmp_path, parted, domains, message):
    with pytest.raises(UserError, match=message):
        open_labelled("domain_folders", tmp_path / "data", domains, root=parted)


def test_folders_need_a_root_and_images(tmp_path, parted):
    with pytest.raises(UserError, match="domain_folders needs root"):
        open_labelled("domain_folders", tmp_path / "data", DOMAINS)
    for folder in ("a", "b"):
        write(tmp_path / "few", folder, 1, 0)
    with pytest.raises(UserError, match="a holds 1 image, but one has to be held out"):
        scan_domain_folders(tmp_path / "few", ("a", "b"))


def test_pairs_and_two_domains_have_labels_too(openmoji_dir):
    pairs = open_labelled("openmoji_gender", openmoji_dir, ("man", "woman"), size=32)
    assert [len(each) for each in (*pairs.train, *pairs.test)] == [382, 382, 103, 103]
    assert (pairs.train[0][0] != pairs.train[1][0]).any()
    parted = open_labelled("openmoji_gender_unpaired", openmoji_dir, ("man", "woman"), size=32)
    np.testing.assert_array_equal(parted.test[1][5], pairs.test[1][5])
    with pytest.raises(
        UserError, match="domains of openmoji_gender are man, woman, got 'woman, man'"
    ):
        open_labelled("openmoji_gender", openmoji_dir, ("woman", "man"), size=32)


@pytest.mark.parametrize("check", [check_paired, check_unpaired])
def test_a_translation_does_not_train_on_it(check):
    with pytest.raises(UserError, match="'domain_folders' is for a classifier"):
        check("domain_folders")


def test_domains_of_one_size_have_orders_of_their_own():
    batches = pipeline.labelled_batches(
        [Numbered(domain, 50) for domain in range(2)],
        lambda example, rng: example,
        global_batch=50,
        seed=1,
        start_step=0,
    )
    first, second = next(batches)["images"][..., 0, 0, 0].T
    assert (first != second - 100).mean() > 0.9


class Numbered:
    """Images that hold their number, of one domain."""

    def __init__(self, domain, count):
        self.domain, self.count = domain, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.full((2, 2, 3), 100 * self.domain + index, np.uint8)


def read(count, **options):
    batches = pipeline.labelled_batches(
        [Numbered(domain, size) for domain, size in enumerate((3, 7))],
        lambda example, rng: example,
        **{"global_batch": 6, "seed": 1, "start_step": 0, "num_threads": 2, **options},
    )
    return np.stack([next(batches)["images"] for _ in range(count)])[..., 0, 0, 0]


def test_an_example_is_one_image_of_each_domain():
    found = read(7)
    assert found.shape == (7, 6, 2)
    for domain, size in enumerate((3, 7)):
        of_domain = found[..., domain].ravel() - 100 * domain
        assert (of_domain >= 0).all() and (of_domain < size).all()
        # Every epoch is a permutation of the domain's own images.
        for epoch in of_domain[: len(of_domain) // size * size].reshape(-1, size):
            assert sorted(epoch) == list(range(size))


def test_batches_go_on_and_split_over_processes():
    found = read(4)
    np.testing.assert_array_equal(read(2, start_step=2), found[2:])
    parts = [read(4, process_index=process, process_count=2) for process in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), found)
