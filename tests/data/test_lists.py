"""Lists: reading, errors, and held-out images."""

import collections

import pytest
from PIL import Image

from warp_translate.data import lists
from warp_translate.data.sources import open_domains, open_labelled, open_pairs, prepare
from warp_translate.errors import UserError


@pytest.fixture
def listed(tmp_path):
    """Writes a list and its files, each of another gray."""

    def write(text, *, files=True):
        path = tmp_path / "list.csv"
        path.write_text(text)
        if files:
            names = {
                word.strip()
                for line in text.splitlines()[1:]
                for word in line.split(",")
                if word.strip().endswith(".png")
            }
            for number, name in enumerate(sorted(names)):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (number,) * 3).save(tmp_path / name)
        return path

    return write


PAIRS = """source,target,split
in/1.png,out/one.png,train
in/2.png,out/two.png,test
in/1.png,out/three.png,val
"""


def test_pairs_are_in_the_order_of_the_lines(listed, tmp_path):
    layout = lists.scan_pairs(listed(PAIRS))
    found = {
        split: [(a.relative_to(tmp_path).as_posix(), b.name) for a, b in pairs]
        for split, pairs in layout.splits.items()
    }
    assert found == {
        "train": [("in/1.png", "one.png")],
        "test": [("in/2.png", "two.png")],
        "val": [("in/1.png", "three.png")],
    }
    assert not layout.held_out


def test_a_list_of_pairs_is_prepared_and_read_back(listed, tmp_path):
    path = listed(PAIRS)
    for direction, source in (("AtoB", 1), ("BtoA", 4)):
        builder = prepare("paired_folder", tmp_path / "made", root=path, direction=direction)
        test = open_pairs(builder, "test")
        assert len(test) == 1
        # Names in order: in/1, in/2, out/one, out/three, out/two.
        assert test[0]["source"][0, 0, 0] == source


def domain_list(count, *, split=False, group=False):
    head = "file,domain" + ",split" * split + ",group" * group
    lines = [
        f"{kind}/{number}.png,{kind}"
        + (f",{'test' if number == 0 else 'train'}" if split else "")
        + (f",person {number // 4}" if group else "")
        for kind in ("pear", "apple")
        for number in range(count)
    ]
    return "\n".join([head, *lines, ""])


def test_a_is_the_alphabetically_first_domain(listed, tmp_path):
    layout = lists.scan_two_domains(listed(domain_list(3, split=True)))
    assert {
        name: [f"{file.parent.name}/{file.name}" for (file,) in examples]
        for name, examples in layout.splits.items()
    } == {
        "trainA": ["apple/1.png", "apple/2.png"],
        "trainB": ["pear/1.png", "pear/2.png"],
        "testA": ["apple/0.png"],
        "testB": ["pear/0.png"],
    }
    found = open_domains("unpaired_folder", tmp_path / "made", root=tmp_path / "list.csv")
    assert [len(each) for each in (found.train_a, found.train_b, found.test_a, found.test_b)] == [
        *(2, 2, 1, 1)
    ]
    assert found.test_b[0][0, 0, 0] == 3, "apples have 0 to 2, pears 3 to 5"


def test_domains_of_a_list_are_chosen_by_name(listed, tmp_path):
    path = listed(domain_list(3, split=True) + "plum/1.png,plum,train\n")
    found = open_labelled("domain_folders", tmp_path / "made", ("pear", "apple"), root=path)
    assert [each[0][0, 0, 0] for each in found.test] == [3, 0]
    with pytest.raises(UserError, match="no image of cherry; its domains are apple, pear, plum"):
        open_labelled("domain_folders", tmp_path / "made", ("pear", "cherry"), root=path)
    with pytest.raises(UserError, match="has 3 domains, apple, pear, plum: training between two"):
        lists.scan_two_domains(path)


def test_held_out_images_stay_so_as_the_list_grows(listed):
    before = lists.scan_two_domains(listed(domain_list(200)))
    after = lists.scan_two_domains(listed(domain_list(300)))
    assert before.held_out
    for side in "AB":
        held, later = set(before.splits[f"test{side}"]), set(after.splits[f"test{side}"])
        assert 8 <= len(held) <= 32  # Of 200; 20 by chance, plus or minus three times 4.2.
        assert held <= later and not held & set(after.splits[f"train{side}"])
        assert len(before.splits[f"train{side}"]) == 200 - len(held)


def test_groups_stay_together(listed):
    layout = lists.scan_two_domains(listed(domain_list(60, group=True)))
    for side in "AB":
        people = [
            {int(file.stem) // 4 for (file,) in layout.splits[f"{split}{side}"]}
            for split in ("train", "test")
        ]
        assert people[1] and not people[0] & people[1]


def test_of_two_images_one_is_held_out(listed):
    layout = lists.scan_two_domains(listed(domain_list(2)))
    assert {name: len(files) for name, files in layout.splits.items()} == dict.fromkeys(
        ("trainA", "trainB", "testA", "testB"), 1
    )


def test_splits_approximate_the_shares():
    found = collections.Counter(lists.split_of(str(n), 0.2, 0.3) for n in range(4000))
    assert abs(found["test"] - 800) < 100 and abs(found["val"] - 1200) < 120
    assert lists.split_of("x", 0.0) == "train" and lists.split_of("x", 1.0) == "test"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the columns of an empty file: a list of pairs has source,target and one of dom"),
        ("a,b\n1.png,2.png\n", "has the columns a, b: a list of pairs has source,target"),
        ("source,target,size\n", "has unknown columns, size"),
        ("source,target\n1.png,\n", "line 2: target is empty"),
        ("source,target\n1.png\n", "line 2: the number of values is not that of the columns"),
        ("source,target\n1.png,2.png,3.png\n", "line 2: the number of values"),
        ("source,target,split\n1.png,2.png,tset\n", "line 2: split 'tset' is none of train, val"),
        ("source,target\n1.png,2.pcx\n", "line 2: 2.pcx is none of .png"),
        ("source,target\n", "lists no image"),
        ("source,target\n1.png,2.png\n", "has no test split, and 1 file or group to hold out of"),
        ("source,target,split\n1.png,2.png,test\n", "has no line whose split is train"),
        (
            "source,target,split\n1.png,2.png,train\n3.png,4.png,\n",
            "line 3: split is empty, unlike in other lines",
        ),
        ("file,domain\n1.png,a\n", "is a list of domains; this training needs one with source,"),
    ],
)
def test_errors_name_the_line_and_the_remedy(listed, text, said):
    with pytest.raises(UserError) as error:
        lists.scan_pairs(listed(text))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_missing_files_are_counted(listed):
    with pytest.raises(UserError, match=r"2 files are missing, .*2.png of line 2 for"):
        path = listed("source,target\n1.png,2.png\n3.png,4.png\n")
        for name in ("2.png", "3.png"):
            (path.parent / name).unlink()
        lists.scan_pairs(path)
    with pytest.raises(UserError, match=r"nowhere.csv cannot be read as a list \(No such file"):
        lists.scan_pairs("nowhere.csv")


def test_a_list_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes("source,target\nä.png,b.png\n".encode("latin-1"))
    with pytest.raises(UserError, match="of line 2 for instance; is the list saved as UTF-8"):
        lists.scan_pairs(tmp_path / "list.csv")


def test_file_names_may_be_any_bytes(tmp_path):
    names = ["\r.png", "a\r\nb.png", " .png", "\udcff.png", 'q"uote.png', "a,b.png"]
    for name in names:
        (tmp_path / name).touch()
    path = tmp_path / "list.csv"
    lists.write(path, ("file", "domain"), [(name, "x") for name in names])
    assert [entry.files[0].name for entry in lists.read(path)] == names
    path.write_text("file,domain\nc.png, x\n c.png,x\n")
    (tmp_path / "c.png").touch()
    found = [(entry.files[0].name, entry.domain) for entry in lists.read(path)]
    assert found == [("c.png", "x")] * 2


def test_a_list_is_written_atomically(tmp_path):
    path = tmp_path / "list.csv"
    assert lists.write(path, ("file", "domain"), [("a,b.png", "x"), ("c.png", "y")]) == 2
    assert [entry.files[0].name for entry in lists.read(path)] == ["a,b.png", "c.png"]

    def fails():
        yield ("d.png", "z")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lists.write(path, ("file", "domain"), fails())
    assert len(list(lists.read(path))) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["list.csv"]
