"""Command lines with one mistake each: of the real commands and flags, spoilt at random."""

import random
from pathlib import Path

from tests.cli.wrong import Places, Wrong, Wrongs, misspelt
from warp_translate.cli.main import COMMANDS


def commands(rng: random.Random) -> Wrongs:
    """Commands that are none."""
    yield Wrong((), ("no command",))
    for command in COMMANDS:
        word = misspelt(rng, command, COMMANDS)
        yield Wrong((word,), (repr(word),), command)


def right(places: Places) -> dict[str, list[str]]:
    """For each command a line that has nothing wrong."""
    config, workdir = "--config=experiments/quickstart.py:runlocal", f"--workdir={places.new}"
    sweep = "--config=experiments/ablations/fusion.py:runlocal"
    run, bundle, output = (
        f"--workdir={places.run}",
        f"--bundle={places.bundle}",
        f"--output={places.new}",
    )
    return {
        "doctor": [],
        "data": [f"--root={places.pictures}"],
        "train": [config, workdir],
        "ablate": [sweep, workdir],
        "checkpoints": [run],
        "evaluate": [run],
        "report": [f"--runs={places.run}", output],
        "translate": [bundle, f"--input={places.pictures}", output],
        "device": [bundle],
        "cost": [config],
        "export": [run, output],
        "serve": [str(Path(places.bundle).parent)],
    }


_ABSENT = {
    "int": ("many", "1.5", ""),
    "float": ("much", ""),
    "bool": ("perhaps",),
    "string enum": ("unheard_of",),
    "path": ("",),
}
_OUT_OF_RANGE = {"int": ("-1",), "float": ("-1", "nan", "inf")}
_NEEDS = {"process_id": "--coordinator", "num_processes": "--coordinator"}


def flags(rng: random.Random, places: Places, taken: dict[str, dict[str, str]]) -> Wrongs:
    """Flags that are none or are others', and values that they do not take.

    Args:
      rng: draws.
      places: what the lines are about.
      taken: the kinds of the flags of each command, by name.
    """
    lines = right(places)
    every = {name for found in taken.values() for name in found}
    for command, kinds in taken.items():
        line = lines[command]
        for name in rng.sample(sorted(kinds), min(3, len(kinds))):
            word = misspelt(rng, name, kinds)
            yield Wrong((command, *line, f"--{word}=1"), (f"--{word}",), f"--{name}")
        for name in rng.sample(sorted(every - kinds.keys()), 2):
            yield Wrong((command, *line, f"--{name}=1"), (f"--{name}",))
        for name, kind in kinds.items():
            for value in _ABSENT.get(kind, ()):
                yield Wrong((command, *line, f"--{name}={value}"), (f"--{name}={value}",))
            for value in _OUT_OF_RANGE.get(kind, ()):
                yield Wrong((command, *line, f"--{name}={value}"), (f"--{name}={value}",))
        if command != "serve":
            # A word is an input of translate, and it is not there.
            named = "rubbish" if command == "translate" else "'rubbish'"
            yield Wrong((command, *line, "rubbish"), (named,))


def others(rng: random.Random, places: Places) -> Wrongs:
    """Inputs and outputs that are not there or not right, and flags that exclude each other."""
    del rng
    text, empty, nothing = places.text, places.made("empty_folder"), str(places.folder / "none")
    empty_file = str(places.folder / "empty.csv")
    Path(empty_file).write_text("")
    run, bundle, pictures = (
        f"--workdir={places.run}",
        f"--bundle={places.bundle}",
        f"--input={places.pictures}",
    )
    output, config = f"--output={places.new}", "--config=experiments/quickstart.py:runlocal"
    into = f"{text}/x"
    translate = ("translate", run)
    data = ("data", f"--root={places.pictures}")
    cost = ("cost", config)
    export = ("export", run, output)
    lists = places.folder / "lists"
    lists.mkdir(exist_ok=True)
    for name, content in (
        ("columns", "a,b\n1,2\n"),
        ("header", "source,target\n"),
        ("absent", "source,target\na.png,b.png\n"),
        ("values", "source,target\na.png\n"),
    ):
        path = lists / f"{name}.csv"
        path.write_text(content)
        yield Wrong(("data", f"--root={path}"), (path.name,))
    for args, *culprits in (
        ((*translate, f"--input={empty}", output), empty),
        ((*translate, pictures, f"--output={text}"), text),
        ((*translate, pictures, f"--output={into}"), into),
        ((*translate, pictures, f"--output={places.pictures}"), places.pictures),
        ((*translate, pictures, output, bundle), "--workdir", "--bundle"),
        (("translate", pictures, output), "--workdir"),
        ((*translate, pictures, output, "--maps=mask,warpd"), "warpd"),
        ((*translate, pictures, output, "--factor=0"), "--factor=0"),
        ((*translate, pictures, output, "--step=all"), "--step=all"),
        ((*translate, pictures, output, "--step=7"), "7"),
        ((*translate, pictures, output, "--batch=4"), "--batch"),
        ((*translate, pictures, output, "--quality=80"), "--quality=80"),
        ((*translate, pictures, output, "--quality=0", "--format=webp"), "--quality=0"),
        ((*translate, pictures, f"--output={places.new}.jpg"), f"{places.new}.jpg"),
        ((*translate, "--input=-", output), "--input=-"),
        ((*translate, "--input=-", "--output=-", "--format=same"), "--format=same"),
        (("translate", bundle, pictures, output, "--factor=3"), "3"),
        (("translate", bundle, pictures, output, "--step=5"), "--step=5"),
        (("translate", bundle, pictures, output, "--direction=a_to_b"), "--direction=a_to_b"),
        (("translate", bundle, pictures, output, "--workers=0"), "--workers=0"),
        (("translate", bundle, pictures, output, "--batch=0"), "--batch=0"),
        (("evaluate", run, "--step=7"), "7"),
        (("evaluate", run, "--step=bset"), "--step=bset"),
        (("evaluate", run, "--step="), "--step="),
        (("evaluate", run, "--factor=0"), "--factor=0"),
        (("evaluate", run, "--rows=0"), "--rows=0"),
        (("evaluate", run, "--best_by=test/output/l2"), "--best_by=test/output/l2"),
        (("evaluate", run, "--best_by=test/accuracy"), "--best_by=test/accuracy"),
        (("evaluate", run, "--best_by=test/accuracy", "--step=all"), "--best_by=test/accuracy"),
        (("evaluate", run, "--best_by=test/output/l1", "--step=2"), "--best_by", "--step=2"),
        (("evaluate", run, "--watch", "--step=2"), "--watch", "--step=2"),
        (("evaluate", run, f"--output={text}"), text),
        (("evaluate", run, f"--output={into}"), into),
        (("evaluate", run, "--num_processes=2"), "--num_processes=2"),
        (("evaluate", run, "--coordinator=here"), "--coordinator=here"),
        (("evaluate", run, "--coordinator=here:1"), "--coordinator=here:1", "--num_processes"),
        (("checkpoints", run, "--keep=bset"), "--keep=bset"),
        (("checkpoints", run, "--keep=7"), "7"),
        (("checkpoints", run, "--keep="), "--keep="),
        (("train", config, f"--workdir={text}"), text),
        (("train", config, f"--workdir={into}"), into),
        (("train", config, f"--workdir={places.new}", f"--compilation_cache={text}"), text),
        (("ablate", config, f"--workdir={text}"), text),
        (("ablate", config, f"--workdir={places.new}", "--only=ful"), "--only=ful"),
        (("ablate", config, f"--workdir={places.new}", "--seeds=0"), "--seeds=0"),
        (("ablate", config, f"--workdir={places.new}", "--jobs=0"), "--jobs=0"),
        (
            ("ablate", config, f"--workdir={places.new}", "--config.method.fusion=full"),
            "--config.method.fusion",
        ),
        (("report", f"--runs={places.run}"), "--output"),
        (("report", f"--runs={places.run}", f"--output={text}"), text),
        (("data", f"--root={nothing}"), nothing),
        (("data", f"--root={text}"), text),
        (("data", f"--root={empty}"), empty),
        (("data", f"--root={empty_file}"), empty_file),
        ((*data, "--list=good.txt"), "--list=good.txt"),
        ((*data, "--list=good.csv", "--data_name=paird_folder"), "paird_folder"),
        ((*data, "--list=good.csv", "--test_share=0"), "--test_share=0"),
        ((*data, "--list=good.csv", "--test_share=0.5", "--val_share=0.5"), "--val_share=0.5"),
        ((*data, "--list=good.csv", "--group=("), "--group=("),
        ((*data, f"--output={text}"), text),
        ((*data, "--data_name=paired_folder"), "--data_name"),
        (("device", "--sizes=10"), "'10'"),
        (("device", "--sizes=0x5"), "'0x5'"),
        (("device", "--sizes="), "--sizes"),
        (("device", "--estimate", "--recalibrate"), "--bundle"),
        (("device", bundle, "--estimate", "--recalibrate"), "--estimate", "--recalibrate"),
        ((*cost, bundle), "--config", "--bundle"),
        ((*cost, "--engine=onnx"), "--engine=onnx"),
        ((*cost, "--sizes=8x"), "'8x'"),
        ((*cost, "--sizes="), "--sizes"),
        ((*cost, "--factors=0"), "--factors=0"),
        ((*cost, "--factors=two"), "--factors=two"),
        ((*cost, "--factors="), "--factors"),
        ((*cost, "--repeats=0"), "--repeats=0"),
        ((*cost, f"--output={empty}"), empty),
        ((*cost, f"--output={into}"), into),
        ((*cost, "--plot=chart.gif"), "chart.gif"),
        (("cost", "--config=experiments/classifier.py"), "--config"),
        (("cost", bundle, "--factors=3"), "3"),
        ((*export, "--threshold=0.5"), "--threshold"),
        ((*export, f"--triton={text}"), text),
        (("export", run, f"--output={text}"), text),
        (("serve", "bundles", "--port=70000"), "--port=70000"),
        (("serve", empty, "--host=nowhere.invalid"), "--host=nowhere.invalid"),
        (("serve", "bundles", "--most_requests=0"), "--most_requests=0"),
    ):
        yield Wrong(args, tuple(culprits))
    for args, *culprits in (
        ((*translate, f"--input={nothing}", output), nothing),
        ((*translate, f"--input={text}", output), text),
        ((*translate, f"--input={empty_file}", output), empty_file),
        ((*translate, pictures, output, "--direction=a_to_b"), "--direction=a_to_b"),
        (("evaluate", run, "--extractor=efficientnet_lite1"), "'efficientnet_lite1'"),
        (("evaluate", run, f"--extractor={nothing}.onnx"), f"{nothing}.onnx"),
        (("evaluate", run, f"--extractor={nothing}.safetensors"), f"{nothing}.safetensors"),
        (("evaluate", run, f"--recogniser={nothing}"), nothing),
        (("evaluate", run, f"--recogniser={places.run}"), places.run),
        (("evaluate", run, f"--recogniser={nothing}.onnx"), f"{nothing}.onnx"),
        (("evaluate", run, "--recogniser_domains=man,woman"), "man,woman"),
        ((*export, "--direction=a_to_b"), "--direction=a_to_b"),
        ((*export, "--source=a b"), "'a b'"),
        ((*export, "--source=man", "--target=man"), "--source", "--target"),
        ((*export, "--bundle_name=.."), "'..'"),
        ((*export, "--factors=0"), "--factors=0"),
        ((*export, f"--triton={places.new}"), "--triton", places.new),
    ):
        yield Wrong(args, tuple(culprits), late=True)
    yield Wrong(("serve",), ("one folder of bundles",))
    yield Wrong(("serve", "a", "b"), ("one folder of bundles",))
    for command, missing in (
        *(("train", "--config"), ("ablate", "--config"), ("evaluate", "--workdir")),
        *(("checkpoints", "--workdir"), ("export", "--workdir"), ("data", "--root")),
        *(("report", "--output"), ("translate", "--input"), ("cost", "--config")),
    ):
        yield Wrong((command,), (missing,))
    yield Wrong(("report", f"--output={places.new}"), ("--runs",))
    yield Wrong(("train", "--config.optim.lr=1"), ("--config.optim.lr", "--config="))
    yield Wrong(("evaluate", "--config.optim.lr=1"), ("--config.optim.lr",))
    yield Wrong(("train", "--flagfile=/nothing"), ("/nothing",))
