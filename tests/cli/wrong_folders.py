"""Command lines about folders that are no run or no bundle, or spoilt ones."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.cli.wrong import Places, Wrong, Wrongs, cut


def runs(rng: random.Random, places: Places) -> Wrongs:
    """Folders that are no run, or a spoilt one."""
    del rng
    output = f"--output={places.new}"
    lines = {
        "evaluate": (),
        "checkpoints": (),
        "translate": (f"--input={places.pictures}", output),
        "export": (output,),
    }
    for what, folder, culprits in _no_runs(places):
        # Each command once, and what only one reads by that one.
        every = what in ("nothing", "empty", "text", "lacking lr", "no arrays")
        for command, line in lines.items() if every else [("evaluate", ())]:
            if (what, command) == ("no arrays", "checkpoints"):  # It does not read them.
                continue
            late = what.endswith((" arrays", " metadata"))
            yield Wrong((command, f"--workdir={folder}", *line), culprits, late=late)
    for folder in (
        str(places.folder / "nothing"),
        places.made("empty_folder"),
        places.text,
        f"{places.run},{places.run}",
        "",
    ):
        yield Wrong(("report", f"--runs={folder}", output), ("--runs", folder.rpartition(",")[2]))
    for name in ("config.json", "metrics.jsonl", "run.json"):
        folder = places.copy(places.run, f"spoilt_{name}")
        (folder / name).write_text("{nonsense}\n")
        yield Wrong(("report", f"--runs={folder}", output), (str(folder / name),))
    for metrics in ("output/l2", ""):
        yield Wrong(
            ("report", f"--runs={places.run}", "--table", f"--metrics={metrics}"), ("--metrics",)
        )


def _no_runs(places: Places) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """What it is, the folder, and what an error names."""
    for name, folder in (
        ("nothing", str(places.folder / "nothing")),
        ("empty", places.made("empty_folder")),
        ("text", places.text),
        ("bundle", places.bundle),
    ):
        yield name, folder, (folder,)
    content = json.loads((Path(places.run) / "config.json").read_text())
    yield "changed", str(places.copy(places.run, "changed")), ("config.json", "checksum")
    changed = Path(places.folder / "copies/changed/config.json")
    changed.write_text(json.dumps(content | {"seed": content["seed"] + 1}))
    del content["checksum"]  # As who changes it by hand is told to do.

    def spoilt(name: str, text: str, *culprits: str) -> tuple[str, str, tuple[str, ...]]:
        folder = places.copy(places.run, re.sub(r"\W", "_", name))
        (folder / "config.json").write_text(text, encoding="latin-1")
        return name, str(folder), (str(folder), *culprits)

    yield spoilt("cut config", json.dumps(content)[:200])
    yield spoilt("list", "[1, 2]")
    yield spoilt("binary", "\xff\xfe")
    for field, value in (
        *(("optim.lr", None), ("optim.lr", "fast"), ("adversary.colour", None), ("data.name", 5)),
        *(("method.training", None), ("method.training", "cylce"), ("evaluation.factors", 3)),
        *(("evaluation.best_metric", None), ("training.total_steps", "many"), ("optim", None)),
        *(("generator.dtype", None), ("generator.dtype", "float33"), ("data", 5)),
        *(("evaluation.best_metric", "test/output/l2"), ("data.scale", [1])),
    ):
        changed = json.loads(json.dumps(content))
        section, _, last = field.rpartition(".")
        place = changed[section] if section else changed
        del place[last]
        if value is not None:
            place[last] = value
        state = f"lacking {last}" if value is None else f"{last} {value}"
        yield spoilt(state, json.dumps(changed), f"{field}{'' if '.' in field else '.'}"[:-1])
    for name, spoil in (
        ("no checkpoints", lambda folder: shutil.rmtree(folder)),
        ("empty checkpoints", lambda folder: [shutil.rmtree(each) for each in folder.iterdir()]),
        ("file", lambda folder: (shutil.rmtree(folder), folder.write_text("x"))),
        ("cut arrays", lambda folder: cut(folder.rglob("d/*"))),
        ("no arrays", lambda folder: [each.unlink() for each in folder.rglob("d/*")]),
        ("cut metadata", lambda folder: cut(folder.rglob("_METADATA"))),
        ("no metadata", lambda folder: [each.unlink() for each in folder.rglob("_METADATA")]),
        ("spoilt metrics", lambda folder: [each.write_text("{") for each in _metrics(folder)]),
    ):
        folder = places.copy(places.run, name.replace(" ", "_"))
        spoil(folder / "checkpoints")
        yield name, str(folder), (str(folder),)


def _metrics(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("metrics/*") if path.is_file()]


def bundles(rng: random.Random, places: Places) -> Wrongs:
    """Folders that are no bundle, or a spoilt one."""
    del rng
    line = (f"--input={places.pictures}", f"--output={places.new}")
    lines = {"translate": line, "device": (), "cost": ()}
    for number, (folder, culprits) in enumerate(_no_bundles(places)):
        for command, further in lines.items() if number < 3 else [("device", ())]:
            yield Wrong((command, f"--bundle={folder}", *further), (folder, *culprits))
    yield Wrong(("serve", str(places.folder / "nothing")), (str(places.folder / "nothing"),))
    yield Wrong(("serve", places.text), (places.text,))


def _no_bundles(places: Places) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A folder, and what an error names besides it."""
    yield str(places.folder / "nothing"), ()
    yield places.text, ()
    yield places.run, ()
    yield places.made("empty_folder"), ("config.json",)
    content = json.loads((Path(places.bundle) / "config.json").read_text())
    for number, text in enumerate((json.dumps(content)[:100], "[]", "{}", "")):
        folder = places.copy(places.bundle, f"bundle_{number}")
        (folder / "config.json").write_text(text)
        yield str(folder), ("config.json",)
    values = {"format": 7, "size": 0, "name": "../x", "source": "", "factor": 3, "factors": [0]}
    for key, value in [*((key, None) for key in content), *values.items()]:
        if value is None and key == "format":
            continue
        changed = {name: each for name, each in content.items() if name != key}
        changed |= {} if value is None else {key: value}
        folder = places.copy(places.bundle, f"bundle_{key}_{value is None}")
        (folder / "config.json").write_text(json.dumps(changed))
        yield str(folder), ("config.json" if key in ("normalisation", "checksum") else key,)
    for key in content["architecture"]:
        changed = json.loads(json.dumps(content))
        changed["architecture"][key] = "unheard_of"
        folder = places.copy(places.bundle, f"architecture_{key}")
        (folder / "config.json").write_text(json.dumps(changed))
        yield str(folder), (f"architecture.{key}",)
    for file in content["files"]:
        for name, spoil in (("gone", Path.unlink), ("cut", lambda path: cut([path]))):
            folder = places.copy(places.bundle, f"{name}_{file}")
            spoil(folder / file)
            yield str(folder), (file,)
    yield places.bundle, ("model.onnx",)  # Its checksum is right, and it is none.
