import numpy as np
import pytest

from warp_translate.data.portraits import OLD_FROM, YOUNG_UP_TO, scan_portraits
from warp_translate.data.sources import open_domains
from warp_translate.errors import UserError
from warp_translate.image_io import write_image


@pytest.fixture
def people(tmp_path):
    """Thirty of each sex, 20 to 78 years old: (file, sex, age)."""
    people = [
        (f"{sex}/{i:03}.png", sex, 20 + 2 * i) for sex in ("male", "female") for i in range(30)
    ]
    for file, _, age in people:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        write_image(tmp_path / file, np.full((2, 3, 3), age, np.uint8))
    write_table(tmp_path, people)
    return people


def write_table(root, rows, header="country,age,file,sex"):
    lines = [header, *(f"Mali,{age},{file},{sex}" for file, sex, age in rows)]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")


EXPECTED = {
    "male_female": (lambda sex, age: sex == "male", lambda sex, age: sex == "female"),
    "old_young": (lambda sex, age: age >= OLD_FROM, lambda sex, age: age <= YOUNG_UP_TO),
}


@pytest.mark.parametrize("domains", EXPECTED)
def test_everyone_of_a_domain_is_in_one_split(tmp_path, people, domains):
    layout = scan_portraits(tmp_path, domains)
    assert layout.splits.keys() == {"trainA", "trainB", "testA", "testB"}
    for letter, belongs in zip("AB", EXPECTED[domains], strict=True):
        members = [tmp_path / file for file, sex, age in people if belongs(sex, age)]
        train, test = (
            tuple(path for (path,) in layout.splits[f"{split}{letter}"])
            for split in ("train", "test")
        )
        assert sorted(train + test) == sorted(members)
        assert len(test) == round(len(members) / 5)
        assert list(train) == sorted(train)


def test_thresholds_leave_a_gap(tmp_path, people):
    assert OLD_FROM - YOUNG_UP_TO >= 15
    layout = scan_portraits(tmp_path, "old_young")
    age = {tmp_path / file: age for file, _, age in people}
    ages = {side: [] for side in "AB"}
    for split, examples in layout.splits.items():
        ages[split[-1]] += [age[path] for (path,) in examples]
    assert min(ages["A"]) == 56 and max(ages["B"]) == 34


def test_the_split_follows_from_the_names(tmp_path, people):
    before = scan_portraits(tmp_path, "male_female").splits
    write_table(tmp_path, people[::-1])
    assert scan_portraits(tmp_path, "male_female").splits == before
    # Removing a training image does not change the test.
    gone = before["trainA"][0][0].relative_to(tmp_path).as_posix()
    write_table(tmp_path, [person for person in people if person[0] != gone])
    after = scan_portraits(tmp_path, "male_female").splits
    assert after["testA"] == before["testA"] and after["trainA"] == before["trainA"][1:]


def test_prepared(tmp_path, people):
    old_young = open_domains("portraits", tmp_path / "data", root=tmp_path, domains="old_young")
    assert not old_young.paired_test
    assert min(int(image.min()) for s in (old_young.train_a, old_young.test_a) for image in s) == 56
    assert max(int(image.max()) for s in (old_young.train_b, old_young.test_b) for image in s) == 34
    assert old_young.train_a[0].shape == (2, 3, 3)
    # Other domains of the same files are another set.
    men_women = open_domains("portraits", tmp_path / "data", root=tmp_path, domains="male_female")
    assert len(men_women.train_a) == len(men_women.train_b) == 24


def check_error(root, *parts, domains="old_young"):
    with pytest.raises(UserError) as error:
        scan_portraits(root, domains)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_wrong_tables(tmp_path, people):
    check_error(tmp_path, "'old_male'", "male_female, old_young", domains="old_male")
    check_error(tmp_path / "none", "none does not exist", "metadata.csv")
    table = "metadata.csv"
    for row, *parts in (
        (("male/999.png", "male", 30), "there is no file 'male/999.png'"),
        (("male/000.png", "Male", 30), "sex 'Male'", "male, female"),
        (("male/000.png", "male", "old"), "age 'old'"),
        (("male/000.png", "male", "-3"), "age '-3'"),
    ):
        write_table(tmp_path, [people[1], row])
        check_error(tmp_path, f"{table}:3: ", *parts)
    (tmp_path / table).write_text("file,sex,age\nmale/000.png\n")
    check_error(tmp_path, f"{table}:2: ", "sex ''")
    write_table(tmp_path, [people[0], people[1], people[0]])
    check_error(tmp_path, table, "lists male/000.png more than once")
    write_table(tmp_path, people, header="country,years,file,sex")
    check_error(tmp_path, table, "no column age")
    write_table(tmp_path, people[:10])
    check_error(tmp_path, table, "lists 0 old portraits")
    (tmp_path / table).write_bytes(b"file,sex,age\n\xff\xfe,male,30\n")
    check_error(tmp_path, table, "cannot be read")
    (tmp_path / table).unlink()
    check_error(tmp_path, "holds female/, male/", "no metadata.csv")
