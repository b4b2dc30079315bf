"""``warp-translate export``, and its bundles in other commands, with and without jax."""

import functools
import json
import re
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import ROOT, WITHOUT_JAX, start
from warp_translate.cli import run_flags
from warp_translate.errors import UserError
from warp_translate.experiment import build, finetune, restore
from warp_translate.image_io import read_image
from warp_translate.serving import bundle as bundles
from warp_translate.serving import export as serving_export


def test_a_run_becomes_a_bundle(exported, tiny_config):
    folder = exported.folder
    bundle = bundles.read(folder)
    assert (bundle.source, bundle.target, bundle.factors) == ("man", "woman", (2, 4))
    assert bundle.size == 32 and bundle.architecture.width == tiny_config.generator.width
    assert bundle.provenance["step"] == 4
    assert bundle.provenance["config"]["generator"] == tiny_config.generator.to_dict()
    assert bundle.provenance["figures"]["test/output/l1"] > 0
    parity = json.loads((folder / "parity.json").read_text())
    # Two images with the run's own factor, two sizes with the other.
    assert {found["images"] for found in parity.values()} == {4}
    assert max(found["largest"] for found in parity.values()) <= 1
    assert re.search(
        r"man-woman: compiling and comparing, image 4 of \d+: 128 x 96, factor 4 \(\d+ s\)",
        exported.stderr,
    )
    assert re.search(r"model\.onnx +4 images, largest difference [01] of 255", exported.stdout)
    model = folder.parent / "models/man-woman"
    assert f"{model}: the same for Triton" in exported.stdout
    assert (model / "1/model.onnx").samefile(folder / "model.onnx")


def test_training_can_start_from_a_bundle(exported, workdir, tiny_config):
    config = tiny_config.copy_and_resolve_references()
    config.finetune.source = str(exported.folder)
    training = build.training(config)
    state = finetune.begin(build.initial_state(training, config), training, config, print)
    with restore.open_run_in(workdir) as run:
        expected = run.restore(4).params["generator"]
    for found in (state.generator.params, state.generator.ema):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_bundle_translates_as_the_run_does(call, exported, workdir, tmp_path, rng):
    (tmp_path / "in").mkdir()
    array = rng.integers(0, 256, (21, 34, 4), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "in/a.png")
    Image.fromarray(array[:, :, :3]).save(tmp_path / "in/b.jpg")
    bundle = {"bundle": str(exported.folder)}
    made = {
        "run": {"workdir": workdir},
        "onnx": bundle | {"engine": "onnx"},
        "jax": bundle | {"engine": "jax"},
    }
    for name, by in made.items():
        places = {"input": [str(tmp_path / "in")], "output": str(tmp_path / name)}
        call("translate", maps=["all"], **places, **by)
        made[name] = {path.name: read_image(path) for path in (tmp_path / name).glob("*.png")}
    run = made.pop("run")
    assert len(run) == 12
    for found in made.values():
        assert found.keys() == run.keys()
        for name, a in run.items():
            # The color wheel turns last bits of the displacement into levels of its own.
            most = 3 if "displacement" in name else 1
            # Colors under transparency are divided by it.
            far = np.abs(a.rgb.astype(int) - found[name].rgb)
            far = far[... if a.alpha is None else a.alpha == 255]
            assert far.max(initial=0) <= most, name
            assert (a.alpha is None) == (found[name].alpha is None)


def test_a_bundle_needs_no_jax_and_repeats_no_work(exported, tmp_path, rng):
    (tmp_path / "in").mkdir()
    for number in range(3):
        array = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / f"in/{number}.png")

    def translate(*more):
        places = f"--input={tmp_path}/in", f"--output={tmp_path}/out"
        return start(WITHOUT_JAX, "translate", f"--bundle={exported.folder}", *places, *more)

    done = translate("--maps=mask")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 images written" in done.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert len(before) == 6
    (tmp_path / "out/1.png").unlink()
    done = translate()
    assert "2 of 3 images are done already" in done.stderr
    assert "1 of 1 images written" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert [path.name for path in after if after[path] != before[path]] == ["1.png"]
    assert "nothing to do" in translate().stdout
    # Maps that are missing are work too.
    assert "3 of 3 images written" in translate("--maps=mask,warped").stdout
    assert (tmp_path / "out/1.warped.png").exists()
    # Outputs of other settings are replaced.
    assert "3 of 3 images written" in translate("--factor=4").stdout


# The command, killed when its fifth output is written but not yet renamed.
KILLED = """
import os, signal
from warp_translate.cli import main
replace, written = os.replace, []
def replace_or_die(source, target):
    written.append(str(target).endswith(".png"))
    if sum(written) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = replace_or_die
main.main()
"""


def test_after_kills_every_image_is_translated_once(call, exported, tmp_path, rng, capsys):
    (tmp_path / "in").mkdir()
    for number in range(15):
        array = rng.integers(0, 256, (20 + 10 * (number % 3), 30, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / f"in/{number}.png")
    places = {
        "bundle": str(exported.folder),
        "input": f"{tmp_path}/in",
        "output": f"{tmp_path}/out",
    }
    options = places | {"batch": 2, "workers": 1}

    def written():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}

    seen = {}
    for count in (4, 8):
        words = [f"--{name}={value}" for name, value in options.items()]
        done = start(KILLED, "translate", *words)
        assert done.returncode == -signal.SIGKILL, done.stderr
        before, seen = seen, written()
        assert len(seen) == count and before.items() <= seen.items()
    capsys.readouterr()
    call("translate", **options | {"input": [options["input"]]})
    printed = capsys.readouterr()
    assert "8 of 15 images are done already" in printed.err
    assert "7 of 7 images written" in printed.out
    now = written()
    assert len(now) == 15 and seen.items() <= now.items()
    for path in now:
        assert read_image(path).rgb.shape == read_image(tmp_path / "in" / path.name).rgb.shape


@pytest.mark.full
def test_times_of_a_device_are_cached(exported, tmp_path):
    def call(*words):
        done = start(WITHOUT_JAX, "device", *words, XDG_CACHE_HOME=str(tmp_path))
        assert "Traceback" not in done.stderr
        return done

    assert re.fullmatch(r".+, \d+ cores? to use, .+\n", call().stdout)
    bundle = f"--bundle={exported.folder}"
    guessed = call(bundle, "--estimate", "--sizes=64x64").stdout
    assert re.search(r"for 200 ms \(estimated\):\n  64 x 64: factor [24], \d+ ms", guessed)
    first = call(bundle, "--sizes=64x64,9999x9999", "--budget_ms=1000")
    assert first.stderr.count("90 % within") == 10
    assert "for 1000 ms (measured):\n  64 x 64: factor 2, " in first.stdout
    assert re.search(r"9999 x 9999: factor 4, \d+ ms, too long with every factor", first.stdout)
    again = call(bundle, "--sizes=64x64,9999x9999", "--budget_ms=1000")
    assert again.stderr == "" and again.stdout == first.stdout


def test_both_generators_of_a_cycle_run_are_exported(call, cycle_run, tmp_path, monkeypatch):
    made = []

    def write(bundle, generator, params, images, *, half, sample, note):
        assert sample is None
        assert half == bundle.name.startswith("mine")
        made.append((bundle, jax.tree.leaves(params)))
        return {}

    monkeypatch.setattr(serving_export, "write_bundle", write)
    common = {"workdir": cycle_run.workdir, "output": str(tmp_path), "factors": [2]}
    call("export", **common)
    own = {"source": "him", "target": "her", "bundle_name": "mine", "half": True}
    call("export", direction="b_to_a", **own, **common)
    assert [(bundle.name, bundle.source, bundle.target) for bundle, _ in made] == [
        *(("man-woman", "man", "woman"), ("woman-man", "woman", "man"), ("mine", "her", "him"))
    ]
    assert all("a_to_b" in name for name in made[0][0].provenance["figures"])
    with restore.open_run_in(cycle_run.workdir) as run:
        averages = run.restore(run.step("best")).params
    assert not all(map(np.array_equal, made[0][1], made[1][1]))
    for (_, params), direction in zip(made, ("a_to_b", "b_to_a", "b_to_a"), strict=True):
        assert all(map(np.array_equal, params, jax.tree.leaves(averages[direction])))


@pytest.fixture(scope="module")
def restored_once():
    """Restores the run once for all cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run_flags, "trained_generators", functools.cache(run_flags.trained_generators)
        )
        yield


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"output": None}, "export needs --output, for example: warp-translate export --workdir"),
        ({"direction": "b_to_a"}, "--direction=b_to_a is none of this run's generators"),
        ({"source": "woman"}, "--source and --target are both woman"),
        ({"source": "a/b"}, "--source 'a/b' must be 1 to 64 letters"),
        ({"bundle_name": ".hidden"}, "the name '.hidden' must be"),
        ({"threshold": 0.5}, "omit --threshold, which is for a classifier, not generators"),
        ({"output": "out", "triton": "./out"}, "--triton and --output are both ./out"),
        ({"triton": str(ROOT), "bundle_name": "tests"}, "tests holds other files than those"),
    ],
)
@pytest.mark.usefixtures("restored_once")
def test_invalid_flags_are_named(call, workdir, tmp_path, values, match):
    with pytest.raises(UserError, match=match):
        call("export", **({"workdir": workdir, "output": str(tmp_path / "out")} | values))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"workdir": "runs/a"}, "translate takes one of --workdir or --bundle or --bundles"),
        ({"factor": 3}, "factor 3 is none of 2, 4"),
        ({"direction": "b_to_a"}, "omit --direction=b_to_a, which is only for --workdir"),
    ],
)
def test_invalid_flags_for_a_bundle_are_named(call, exported, tmp_path, values, match):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    values = {"bundle": str(exported.folder), "input": [str(tmp_path / "a.png")]} | values
    with pytest.raises(UserError, match=match):
        call("translate", output=str(tmp_path / "out"), **values)
    assert not (tmp_path / "out").exists()
