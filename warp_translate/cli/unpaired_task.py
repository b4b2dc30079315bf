"""Unpaired training, by a cycle or by contrast, with its data and its measures."""

import functools
from collections.abc import Iterator, Mapping

import ml_collections
import numpy as np

from warp_translate.cli import build
from warp_translate.cli.task import Report, Sheet, Task
from warp_translate.data import pipeline
from warp_translate.data.image_source import ImageSource
from warp_translate.errors import UserError
from warp_translate.evaluation.features import load_extractor
from warp_translate.evaluation.unpaired import DomainsResult, evaluate_domains
from warp_translate.training.health import BranchWatch
from warp_translate.types import PyTree

_DIRECTIONS = {"a_to_b": "A to B", "b_to_a": "B to A"}


def unpaired_task(config: ml_collections.ConfigDict, *, factor: int | None = None) -> Task:
    """Builds the task of a configuration, which opens its data set.

    Args:
      config: with ``method.training`` "cycle" or "contrastive".
      factor: how many times smaller the trunk's image is; the configuration's by default.

    Returns:
      The task.

    Raises:
      UserError: a mistake in the configuration or the data.
    """
    extractor_name = config.evaluation.extractor
    if not extractor_name and config.evaluation.best_metric.startswith("test/kernel_distance"):
        raise UserError(
            "config.evaluation.best_metric is a kernel distance, which needs "
            "config.evaluation.extractor: name one, or another metric, test/a_to_b/output/l1 of a "
            "paired test set for instance"
        )
    training = build.generator_training(config, factor=factor)
    data = build.domains(config)
    extractor = load_extractor(extractor_name) if extractor_name else None
    crop = build.eval_crop(config)

    def read(images: ImageSource) -> Iterator[dict[str, np.ndarray]]:
        return pipeline.eval_images(images, crop, batch_size=config.evaluation.batch_size)

    @functools.cache
    def training_features() -> tuple[np.ndarray | None, np.ndarray | None]:
        """Features of the images of training, which are the same at every evaluation."""
        if extractor is None:
            return None, None
        a, b = (
            np.concatenate([extractor(batch["image"]) for batch in read(images)])
            for images in (data.train_a, data.train_b)
        )
        return a, b

    def evaluate(params: Mapping[str, PyTree], sheet_rows: int) -> Report:
        translate = {
            name: functools.partial(training.translate, params[name]) for name in training.results
        }
        further_a, further_b = training_features()
        result = evaluate_domains(
            translate["a_to_b"],
            translate.get("b_to_a"),
            read(data.test_a),
            read(data.test_b),
            extractor=extractor,
            paired=data.paired_test,
            sheet_rows=sheet_rows,
            counts=(len(data.test_a), len(data.test_b)),
            further_a=further_a,
            further_b=further_b,
            mask_weights=training.mask_weights,
        )
        scalars = dict(result.scalars)
        if extractor is not None:
            # One figure to choose a checkpoint by: the two generators are results of equal rank.
            after = [
                scalars[f"{name}/kernel_distance/{extractor.name}/after"] for name in translate
            ]
            scalars["kernel_distance"] = sum(after) / len(after)
        sheets = {
            f"sheet_{name}": Sheet(
                rows=sheet.rows,
                columns=sheet.columns,
                wheel_magnitude=sheet.wheel_magnitude,
                title=f"{config.data.name}, {config.data.size} px, factor {training.factor}, "
                f"{_DIRECTIONS[name]}: unseen test images",
                footer="\n".join(_lines(result, name)),
            )
            for name, sheet in result.sheets.items()
        }
        table = "\n".join(
            line
            for name in translate
            for line in (f"{_DIRECTIONS[name]}:", *(f"  {line}" for line in _lines(result, name)))
        )
        return Report(scalars, result.protocol, table, sheets)

    return Task(
        training=training,
        data=f"{len(data.train_a)} images of A and {len(data.train_b)} of B to train on, "
        f"{len(data.test_a)} and {len(data.test_b)} to test on",
        shown=(
            "d_a/probability_gap",
            "d_b/probability_gap",
            "a_to_b/cycle",
            "a_to_b/contrast",
            "a_to_b/mask/mean",
            "b_to_a/mask/mean",
        ),
        batches=lambda start_step: pipeline.unpaired_batches(
            data.train_a,
            data.train_b,
            build.joint_augment(config),
            **build.reading(config, start_step),
        ),
        evaluate=evaluate,
        watch=BranchWatch(training.mask_weights),
    )


def _lines(result: DomainsResult, direction: str) -> list[str]:
    """The figures of one direction in sentences."""
    prefix = f"{direction}/"
    found = {
        name.removeprefix(prefix): value
        for name, value in result.scalars.items()
        if name.startswith(prefix)
    }
    lines = []
    for name, after in found.items():
        if name.startswith("kernel_distance/") and name.endswith("/after"):
            start = name.removesuffix("after")
            lines.append(
                f"kernel distance ({start.split('/')[1]}) to real images of the target: "
                f"{found[start + 'before']:.4f} untouched, {after:.4f} translated "
                f"(standard error {found[start + 'after_error']:.4f})"
            )
    if "output/l1" in found:
        lines.append(
            f"against the truth: L1 {found['output/l1']:.4f}, {found['output/l1_ratio']:.3f} of "
            f"the original's; PSNR {found['output/psnr_gain']:+.2f} dB; SSIM "
            f"{found['output/ssim']:.3f}, the original's {found['identity/ssim']:.3f}"
        )
    background = (
        f"background kept at {found['background/psnr']:.1f} dB on "
        f"{100 * found['background/share']:.0f} % of the pixels"
        if "background/psnr" in found
        else "no background was kept"
    )
    cycle = f"cycle L1 {found['cycle/l1']:.4f}; " if "cycle/l1" in found else ""
    lines.append(
        f"{cycle}{background}; sharpness {found['output/sharpness_of_original']:.2f} of the "
        "original's"
    )
    lines.append(
        f"mask: mean {found['mask/mean']:.3f}, saturated {found['mask/saturated']:.3f}; "
        f"displacement: mean {found['displacement/mean_px']:.2f} px"
    )
    return lines
