"""Seeds faults into a copy of the tree, one at a time, and reports which test suite catches each.

    python tests/faults.py --tree=../before --output=faults.md
    python tests/faults.py --only warp-border remat-dropped --suite quick

Each fault is a small change that a refactoring could make by accident. The test files that should
catch it run in the quick selection, then in the core one, then in the full one, until a test fails.
The result is a Markdown table. Exit status: 0 if every fault was caught, 1 if one was not, 2 if the
run itself failed, for example because a fault no longer applies.

Any failure counts: run the tests without faults first. The seconds include compilation.
"""

import argparse
import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SUITES = {"quick": "not core and not full", "core": "core", "full": "full"}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A change of one file, and the files in tests/ that should catch it, the fastest first."""

    name: str
    path: str
    old: str  # Occurs exactly once in the file.
    new: str
    tests: tuple[str, ...]


# The formatter would use seven lines for each fault.
# fmt: off
FAULTS = (
    # The method and its training.
    Fault("warp-border", "warp_translate/ops/sampling.py", "jnp.clip(whole, 0, max(0, size - 2))",
          "jnp.clip(whole, 0, max(0, size - 1))", ("ops/test_warp.py",)),
    Fault("warp-slope-sign", "warp_translate/ops/sampling.py",
          "jnp.where(is_x, -change, 1.0 - right)", "jnp.where(is_x, change, 1.0 - right)",
          ("ops/test_warp.py",)),
    Fault("translate-mask-convention", "warp_translate/models/translate.py",
          "mask_weights=mask_weights,\n            sampling=sampling,\n            blur",
          "sampling=sampling,\n            blur", ("models/test_translate.py",)),
    Fault("displacement-in-reduced-pixels", "warp_translate/models/generator.py",
          "self.max_displacement * factor * share", "self.max_displacement * share",
          ("models/test_generator.py",)),
    Fault("crop-at-the-wrong-end", "warp_translate/models/translate.py",
          "lambda each: each[:, :height], read_off", "lambda each: each[:, -height:], read_off",
          ("models/test_translate.py",)),
    Fault("cubic-taps-shifted", "warp_translate/ops/warp_cubic.py",
          "lax.broadcasted_iota(jnp.int32, shape, 2) + 1",
          "lax.broadcasted_iota(jnp.int32, shape, 2)",
          ("ops/test_warp_cubic.py",)),
    Fault("cubic-not-exported", "warp_translate/serving/onnx_graph.py",
          '"bicubic" if sampling == "cubic" else sampling', '"bilinear"',
          ("serving/test_onnx_graph.py",)),
    Fault("threshold-not-exported", "warp_translate/serving/onnx_graph.py",
          "(least := architecture.displacement_threshold) > 0", "(least := 0.0) > 0",
          ("serving/test_onnx_graph.py",)),
    Fault("gradient-of-the-sharp-original", "warp_translate/ops/warp.py",
          "box_blur(original, options.blur)", "original", ("ops/test_warp_blur.py",)),
    Fault("depthwise-gradient-shifted", "warp_translate/models/efficientnet_lite.py",
          "least - x // stride : least - x // stride + counts[1]",
          "x // stride : x // stride + counts[1]", ("models/test_efficientnet_lite.py",)),
    Fault("mixing-without-coarse-maps", "warp_translate/models/frozen_features.py",
          "        if mixed:\n", "        if False:\n", ("models/test_frozen_features.py",)),
    Fault("warped-image-not-judged", "warp_translate/training/unpaired.py",
          '"adversarial_warped": forth.warped', '"adversarial_warped": forth.output',
          ("training/test_cycle_step.py",)),
    Fault("choice-ignored", "warp_translate/training/cycle_step.py",
          "state.pool_a, self.choose(made_a, d_a_keys)", "state.pool_a, made_a[:, 0]",
          ("training/test_cycle_step.py",)),
    Fault("way-back-judged-by-the-other-domain", "warp_translate/training/cycle_step.py",
          "self.adversary.judge, discriminators[1]", "self.adversary.judge, discriminators[0]",
          ("training/test_cycle_step.py",)),
    Fault("way-back-not-shown", "warp_translate/training/cycle_step.py",
          "(self.losses.adversarial_back or not images)", "not images",
          ("training/test_cycle_step.py",)),
    Fault("drawn-image-counts-once", "warp_translate/training/unpaired.py",
          "growth * sum(weights.values()) / weights[name]", "growth",
          ("training/test_cycle_step.py",)),
    Fault("condition-always-seen", "warp_translate/training/paired_step.py",
          "return originals if self.conditional else None", "return originals",
          ("training/test_paired_step.py",)),
    Fault("gap-not-smoothed", "warp_translate/training/base.py",
          "gap = _GAP_DECAY * gap + (1 - _GAP_DECAY) * now", "gap = now",
          ("training/test_parallel.py", "cli/test_train.py")),
    Fault("finished-asked-at-any-step", "warp_translate/training/loop.py",
          "if done and schedule.due(done, schedule.save_every):", "if done:",
          ("training/test_loop.py",)),
    Fault("transposed-taps-swapped", "warp_translate/ops/resize.py",
          "taps[2 + row - 2 * down, 2 + column - 2 * right]",
          "taps[2 * down + row, 2 * right + column]", ("models/test_generator.py",)),
    Fault("reduced-head-sees-the-original", "warp_translate/models/generator.py",
          'seen = original if self.head == "projected" else None', "seen = original",
          ("models/test_translate.py", "models/test_generator.py")),
    Fault("router-forgets-the-target", "warp_translate/serving/router.py",
          "lambda: image, source=self._source, target=self._target",
          "lambda: image, source=self._source",
          ("serving/test_routing_by_image.py",)),
    Fault("momentary-frequency", "warp_translate/serving/device.py",
          "known = [core.max for core in cores if core.max]",
          "known = [core.current for core in cores]", ("serving/test_device.py",)),
    Fault("exported-in-sixteen-bits", "warp_translate/serving/export.py",
          "generator = generator.clone(dtype=jnp.float32)", "generator = generator.clone()",
          ("serving/test_export.py",)),
    Fault("coarse-in-sixteen-bits", "warp_translate/models/generator.py",
          "[features.astype(share.dtype), share]", "[features, share.astype(features.dtype)]",
          ("models/test_generator.py",)),
    Fault("remat-dropped", "warp_translate/models/translate.py",
          'run = jax.checkpoint(at_once) if generator.remat == "all" else at_once', "run = at_once",
          ("models/test_translate.py",)),
    Fault("spectral-norm-frozen", "warp_translate/training/discriminator_training.py",
          "spectral=spectral,", "spectral=state.spectral,", ("training/test_paired_step.py",)),
    Fault("hinge-sign", "warp_translate/losses/adversarial.py", "jax.nn.relu(1.0 + fake)",
          "jax.nn.relu(1.0 - fake)", ("losses/test_adversarial.py",)),
    Fault("ema-of-old-parameters", "warp_translate/training/optim.py",
          "ema_update(state.ema, params, step, ema_decay)",
          "ema_update(state.ema, state.params, step, ema_decay)",
          ("training/test_paired_step.py",)),
    Fault("paired-old-discriminator", "warp_translate/training/paired_step.py",
          "self._generator_loss(translation, discriminator, **part)",
          "self._generator_loss(translation, state.discriminator, **part)",
          ("training/test_paired_step.py",)),
    Fault("cycle-old-discriminator", "warp_translate/training/cycle_step.py",
          'a, b, (d_b, d_a), part["to_b_keys"]',
          'a, b, (state.d_b, d_a), part["to_b_keys"]',
          ("training/test_cycle_step.py", "training/test_cycle_parallel.py")),
    Fault("loss-weights-ignored", "warp_translate/training/regularization.py",
          "total += coefficient * means[name]", "total += means[name]",
          ("training/test_cycle_step.py",)),
    Fault("pool-not-used", "warp_translate/training/cycle_step.py",
          "            a,\n            shown_a,", "            a,\n            made_a,",
          ("training/test_cycle_step.py", "training/test_cycle_parallel.py")),
    Fault("contrast-gradient-of-keys", "warp_translate/training/contrastive_step.py",
          "patch_contrast(query, lax.stop_gradient(target),", "patch_contrast(query, target,",
          ("training/test_contrastive_step.py",)),
    Fault("classifier-labels", "warp_translate/training/classifier_step.py",
          "jnp.tile(jnp.arange(domains), count)", "jnp.repeat(jnp.arange(domains), count)",
          ("training/test_classifier_step.py",)),
    Fault("accumulation-not-divided", "warp_translate/training/accumulation.py",
          "lambda value: value / count", "lambda value: value", ("training/test_accumulation.py",)),
    Fault("discriminator-gradients-apart", "warp_translate/training/discriminator_training.py",
          "        gradient = mean_over_devices(gradient, axis_name)\n", "",
          ("training/test_parallel.py",)),
    Fault("paired-gradients-apart", "warp_translate/training/paired_step.py",
          "        gradient = mean_over_devices(gradient, axis_name)\n", "",
          ("training/test_parallel.py",)),
    Fault("cycle-gradients-apart", "warp_translate/training/cycle_step.py",
          "        gradients = mean_over_devices(gradients, axis_name)\n", "",
          ("training/test_cycle_step.py", "training/test_cycle_parallel.py")),
    Fault("keys-without-step", "warp_translate/training/discriminator_training.py",
          "stream_key(root, name, step, i)", "stream_key(root, name, i)",
          ("training/test_discriminator_training.py",)),
    Fault("pool-keys-without-device", "warp_translate/training/cycle_step.py",
          '"image_pool", state.step, device_index(axis_name))', '"image_pool", state.step)',
          ("training/test_cycle_step.py", "training/test_cycle_parallel.py")),
    # Checkpoints, data and evaluation.
    Fault("pool-not-restored", "warp_translate/experiment/train.py",
          "state = replicas.from_global(restored)\n", "state = replicas.from_global(restored)\n"
          '        if hasattr(first, "pool_a"):\n'
          "            state = state.replace(pool_a=replicas.initial(first).pool_a)\n",
          ("cli/test_restarts.py", "cli/test_processes.py")),
    Fault("worst-step-kept", "warp_translate/training/checkpoint.py",
          "return -math.inf if found is None else found",
          "return -math.inf if found is None else -found", ("training/test_checkpoint.py",)),
    Fault("data-from-the-start", "warp_translate/experiment/train.py",
          "batches=task.batches(start_step)", "batches=task.batches(0)",
          ("cli/test_restarts.py", "cli/test_processes.py")),
    Fault("changes-not-checked", "warp_translate/experiment/run_config.py",
          "        _check(changes, workdir, step, accept)\n", "",
          ("experiment/test_run_config.py",)),
    Fault("log-begun-again", "warp_translate/training/logging.py", 'open(path, "a", encoding',
          'open(path, "w", encoding', ("training/test_logging.py",)),
    Fault("shuffle-seed-ignored", "warp_translate/data/pipeline.py", ".shuffle(seed=order_seed)",
          ".shuffle(seed=0)", ("data/test_pipeline.py",)),
    Fault("same-part-for-all", "warp_translate/data/pipeline.py",
          "parts[how.process_index :: how.process_count]", "parts[:: how.process_count]",
          ("data/test_pipeline.py",)),
    Fault("flip-of-one-image", "warp_translate/data/augment.py", "            if mirror:\n",
          "            if self.flip and rng.integers(2):\n", ("data/test_augment.py",)),
    Fault("test-images-in-train", "warp_translate/data/folders.py",
          "tuple(item for name, item in items.items() if name not in held)",
          "tuple(items.values())", ("data/test_folders.py",)),
    Fault("linked-test-photographs-in-train", "warp_translate/data/folders.py",
          "for split in reversed(SPLITS):", "for split in SPLITS:", ("data/test_folders.py",)),
    Fault("changed-teacher-unnoticed", "warp_translate/data/teacher.py",
          'return f"{teacher} {checksum}"', "return teacher", ("data/test_teacher.py",)),
    Fault("skipped-in-silence", "warp_translate/data/records.py", "self._skipped.add(", "str(",
          ("data/test_records.py",)),
    Fault("exif-ignored", "warp_translate/image_io.py",
          "return image if turn is None else image.transpose(turn)", "return image",
          ("test_image_io.py",)),
    Fault("color-profile-ignored", "warp_translate/image_io.py",
          "        return bytes(profile)\n", "        return None\n", ("test_image_color.py",)),
    Fault("last-batch-dropped", "warp_translate/data/pipeline.py", ".map(crop).batch(batch_size)",
          ".map(crop).batch(batch_size, drop_remainder=True)", ("data/test_pipeline.py",)),
    Fault("training-measures-no-average", "warp_translate/experiment/task.py",
          "getattr(state, name).ema", "getattr(state, name).params",
          ("cli/test_train.py", "cli/test_evaluate.py")),
    Fault("bold-is-worst", "warp_translate/evaluation/comparison.py",
          "best = max(finite, key=rank)", "best = min(finite, key=rank)",
          ("evaluation/test_comparison.py",)),
    # Serving, files, launchers and commands.
    Fault("onnx-mask-convention", "warp_translate/serving/onnx_graph.py",
          'if architecture.mask_weights == "warped":',
          'if architecture.mask_weights == "pretranslated":', ("serving/test_onnx_graph.py",)),
    Fault("onnx-rounding", "warp_translate/serving/onnx_graph.py", 'graph.node("Round", scaled',
          'graph.node("Floor", scaled', ("serving/test_onnx_graph.py",)),
    Fault("engine-factor-ignored", "warp_translate/serving/engine.py", "np.array(factor, np.int64)",
          "np.array(self.bundle.factor, np.int64)", ("serving/test_engine.py",)),
    Fault("checksum-not-verified", "warp_translate/serving/bundle.py",
          "expected if verify else None", "None", ("serving/test_bundle.py",)),
    Fault("checksum-of-itself-ignored", "warp_translate/sealed.py",
          "return content.get(KEY) == _digest(rest)", "return True", ("serving/test_bundle.py",)),
    Fault("killed-export-left-alone", "warp_translate/serving/bundle.py",
          "    recover(folder.parent)\n", "", ("serving/test_bundle.py",)),
    Fault("living-export-cleared-away", "warp_translate/owner.py",
          "        return True\n    return False", "        return False\n    return False",
          ("serving/test_bundle.py",)),
    Fault("bad-bundle-ends-the-look", "warp_translate/serving/registry.py",
          "except Exception as error:  # Of any", "except ValueError as error:  # Of any",
          ("serving/test_registry.py",)),
    Fault("factors-of-the-bundle-before", "warp_translate/serving/service.py",
          "key = bundle.name, bundle.build, bundle.factors", "key = bundle.name, bundle.build, ()",
          ("serving/test_registry.py",)),
    Fault("route-backwards", "warp_translate/serving/routing.py",
          "(source is None or pair[0] == source) and (target is None or pair[1] == target)",
          "(source is None or pair[1] == source) and (target is None or pair[0] == target)",
          ("serving/test_routing.py",)),
    Fault("body-limit-of-a-chunk", "warp_translate/serving/middleware.py", "got += len(part",
          "got = len(part", ("serving/test_server.py",)),
    Fault("no-key-is-any-key", "warp_translate/serving/middleware.py", "if not hmac.compare_digest",
          "if given and not hmac.compare_digest", ("serving/test_server.py",)),
    Fault("reading-without-end", "warp_translate/serving/admission.py",
          "asyncio.timeout(self._seconds)", "asyncio.timeout(None)", ("serving/test_server.py",)),
    Fault("answers-in-wrong-order", "warp_translate/serving/batcher.py",
          "in zip(running, answers, strict", "in zip(running, answers[::-1], strict",
          ("serving/test_batcher.py",)),
    Fault("broken-bundle-replaces", "warp_translate/serving/registry.py",
          "before.ready if before else None", "None", ("serving/test_registry.py",)),
    Fault("written-in-place", "warp_translate/storage.py",
          "    with written_whole(path) as partial:\n        partial.write_bytes(data)",
          "    path.write_bytes(data)", ("test_storage.py",)),
    Fault("local-42-lost", "launch/local.py",
          "return first_failure or (PREEMPTED if preempted else 0)", "return first_failure",
          ("launch/test_local.py",)),
    Fault("plan-loops-once", "launch/gathers.py", "yield each, count * repeats, is_filled",
          "yield each, count, is_filled", ("launch/test_plan.py",)),
    Fault("mistake-is-status-1", "warp_translate/cli/status.py", "USER_ERROR = 2", "USER_ERROR = 1",
          ("cli/test_program.py",)),
    Fault("flag-factor-ignored", "warp_translate/experiment/restore.py",
          "training = training.at_factor(factor)", "training = training",
          ("cli/test_translate.py",)),
    Fault("lock-is-shared", "warp_translate/locks.py", "fcntl.LOCK_EX | fcntl.LOCK_NB",
          "fcntl.LOCK_SH | fcntl.LOCK_NB", ("experiment/test_runner.py",)),
)
# fmt: on


class Result(NamedTuple):
    """The suite that caught a fault, None if none did, and the first test that failed."""

    suite: str | None
    test: str
    seconds: float


class HarnessError(Exception):
    """The run itself failed, so nothing is known about the fault."""


def places(tree: Path) -> dict[str, str]:
    """Returns file and line of each fault by its name.

    Raises:
      HarnessError: a fault's text does not occur exactly once, or its test files are missing.
    """
    found: dict[str, str] = {}
    for fault in FAULTS:
        path = tree / fault.path
        text = path.read_text("utf-8") if path.is_file() else ""
        if (count := text.count(fault.old)) != 1:
            raise HarnessError(f"fault {fault.name} fits {count} places in {fault.path}, not one")
        if not test_files(tree, fault):
            raise HarnessError(f"fault {fault.name}: none of its files is in {tree / 'tests'}")
        found[fault.name] = f"{fault.path}:{text[: text.index(fault.old)].count(chr(10)) + 1}"
    return found


def test_files(tree: Path, fault: Fault) -> list[str]:
    """Returns the test files of a fault that a tree has; another version may lack some."""
    paths = [f"tests/{name}" for name in fault.tests]
    return [path for path in paths if (tree / path).is_file()]


def run(fault: Fault, copy: Path, scratch: Path, options: argparse.Namespace) -> Result:
    """Applies a fault to a copy of the tree and runs its tests, suite by suite until one fails."""
    begin = time.monotonic()
    path = copy / fault.path
    original = path.read_text("utf-8")
    path.write_text(original.replace(fault.old, fault.new), "utf-8")
    try:
        for suite in options.suite:
            if test := first_failure(fault, copy, scratch, suite, options.timeout):
                return Result(suite, test, time.monotonic() - begin)
        return Result(None, "", time.monotonic() - begin)
    finally:
        path.write_text(original, "utf-8")


def first_failure(fault: Fault, copy: Path, scratch: Path, suite: str, timeout: float) -> str:
    """Returns the first test of a suite that fails; empty if all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [f"--basetemp={scratch}/tests", "-m", SUITES[suite], *test_files(copy, fault)]
    # Faults of the preparation may not use sets that others prepared.
    data = fault.name if fault.path.startswith("warp_translate/data/") else "shared"
    environment = {
        "JAX_COMPILATION_CACHE_DIR": f"{scratch}/compiled",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "TFDS_DATA_DIR": f"{scratch}/data_{data}",
        "COLUMNS": "1000",  # Width at which pytest cuts the lines of its summary.
    }
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            command,
            cwd=copy,
            env=environment_of(copy) | environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"timeout after {timeout:g} s"
        finally:
            kill_group(process)
        out.seek(0)
        return verdict(status, out.read().decode("utf-8", "replace"))


def environment_of(copy: Path) -> dict[str, str]:
    """Returns an environment that imports from a copy; bytecode would hide changes in a second."""
    own = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""}
    return {**os.environ, **own}


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def verdict(status: int, output: str) -> str:
    """Returns the first failure that pytest reports; empty if no test failed."""
    if status in (0, 5):  # 5: no test was selected.
        return ""
    summary = output.rpartition("short test summary info")[2]
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", summary, re.MULTILINE)
    if status == 1 and found:
        return found[1]
    if status == 2 and found and re.search(r"errors? during collection", output):
        return f"at import: {found[1]}"
    raise HarnessError(f"pytest exited with status {status}:\n{output[-3000:]}")


def copy_tree(tree: Path, target: Path) -> None:
    """Copies the files that git tracks or would add, with uncommitted changes."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=tree, check=True, capture_output=True).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (tree / name).is_file():  # Deleted files are still listed.
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, target / name)
    command = [sys.executable, "-c", "import warp_translate; print(warp_translate.__file__)"]
    imported = subprocess.check_output(command, cwd=target, env=environment_of(target), text=True)
    if target not in Path(imported.strip()).parents:
        raise HarnessError(f"the tests would import {imported.strip()} instead of {target}")


def table(where: dict[str, str], results: dict[str, Result]) -> str:
    """Returns the results as Markdown."""
    lines = [
        "| fault | place | caught by | first failing test | seconds |",
        "|---|---|---|---|---:|",
    ]
    for name, result in results.items():
        cells = (name, where[name], result.suite or "NOT CAUGHT", result.test)
        row = " | ".join(cell.replace("|", r"\|") for cell in cells)
        lines.append(f"| {row} | {result.seconds:.0f} |")
    suites = [result.suite for result in results.values()]
    counts = ", ".join(f"{suites.count(suite)} by {suite or 'none'}" for suite in (*SUITES, None))
    return "\n".join([*lines, "", f"{len(suites)} faults, caught: {counts}.", ""])


def main() -> int:
    """Parses the command line, runs the faults and writes the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these faults")
    parser.add_argument("--suite", nargs="+", choices=SUITES, default=[*SUITES], help="suites")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout to test")
    parser.add_argument("--output", type=Path, help="file for the table; default: stdout")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds of one pytest run")
    parser.add_argument("--check", action="store_true", help="only check that the faults apply")
    options = parser.parse_args()
    tree = options.tree.resolve()
    if unknown := set(options.only or ()) - {fault.name for fault in FAULTS}:
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")
    where = places(tree)
    if options.check:
        print(f"{len(where)} faults apply to {tree}")
        return 0
    faults = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    results: dict[str, Result] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults_", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder).resolve()
        copy_tree(tree, scratch / "copy")
        for fault in faults:
            result = results[fault.name] = run(fault, scratch / "copy", scratch, options)
            done, total = len(results), len(faults)
            left = (time.monotonic() - begin) * (total / done - 1) / 60
            caught = f"{result.suite or 'NOT CAUGHT'} {result.test} ({result.seconds:.0f} s)"
            print(f"[{done}/{total}, {left:.0f} min left] {fault.name}: {caught}", file=sys.stderr)
            if options.output:
                options.output.write_text(table(where, results), "utf-8")
    if not options.output:
        print(table(where, results))
    return int(any(result.suite is None for result in results.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends the tests as well.
    try:
        sys.exit(main())
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
