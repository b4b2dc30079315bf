"""The one place that turns a configuration into explicit arguments."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from warp_translate.data import augment, names, sources
from warp_translate.data.records import PairSource
from warp_translate.data.sources import Domains, Labelled, open_domains, open_labelled
from warp_translate.errors import UserError
from warp_translate.evaluation.perceptual import load_perceptual_distance
from warp_translate.experiment import fields
from warp_translate.experiment.task import Training
from warp_translate.models import Discriminator, DomainClassifier, Generator
from warp_translate.ops.augment import Augmentation
from warp_translate.serving.bundle import check_name
from warp_translate.training.classifier_step import ClassifierTraining
from warp_translate.training.contrastive_step import ContrastiveLosses, ContrastiveTraining
from warp_translate.training.cycle_step import CycleLosses, CycleTraining
from warp_translate.training.discriminator_training import Adversary
from warp_translate.training.loop import Schedule
from warp_translate.training.optim import freeze, learning_rate_schedule
from warp_translate.training.paired_step import PairedLosses, PairedTraining
from warp_translate.training.parallel import Replicas
from warp_translate.types import Array, PyTree

GeneratorTraining = PairedTraining | CycleTraining | ContrastiveTraining


def generator_training(
    config: ml_collections.ConfigDict, *, factor: int | None = None
) -> GeneratorTraining:
    """The same as `training`, where generators are trained."""
    found = training(config, factor=factor)
    assert not isinstance(found, ClassifierTraining)
    return found


def training(
    config: ml_collections.ConfigDict, *, factor: int | None = None
) -> GeneratorTraining | ClassifierTraining:
    """Networks, optimisers and losses of a configuration.

    Args:
      config: the configuration.
      factor: how many times smaller the trunk's image is; the configuration's by default. A
        classifier has none.

    Raises:
      UserError: a field does not hold what it may, see `check`.
    """
    check(config)
    optim, method = config.optim, config.method

    def adam(learning_rate: float, b1: float, frozen: str) -> optax.GradientTransformation:
        schedule = learning_rate_schedule(
            optim.schedule,
            learning_rate,
            config.training.total_steps,
            warmup_steps=optim.warmup_steps,
        )
        parts = config.get("finetune", {}).get(frozen, "")  # Runs of before it have none.
        adam = optax.adam(schedule, b1=b1, b2=optim.b2)
        return freeze(adam, parts, f"config.finetune.{frozen}")

    if method.training == "classifier":
        return ClassifierTraining(
            classifier=DomainClassifier(
                **{
                    **_with_types(config.classifier),
                    "domains": len(domain_names(config)),
                }
            ),
            optimizer=adam(optim.lr, optim.b1, "freeze"),
            outliers=method.outliers,
            ema_decay=optim.ema_decay,
            microbatches=config.training.accumulate,
        )
    adversary = config.adversary.to_dict()
    augmentation = Augmentation(
        **{field.name: adversary.pop(field.name) for field in dataclasses.fields(Augmentation)}
    )
    parts: dict[str, Any] = {
        "generator": Generator(**_with_types(config.generator)),
        "generator_optimizer": adam(optim.lr, optim.b1, "freeze"),
        "adversary": Adversary(
            discriminator=Discriminator(**_with_types(config.discriminator)),
            optimizer=adam(optim.discriminator_lr, optim.discriminator_b1, "freeze_discriminator"),
            augmentation=augmentation,
            microbatches=config.training.accumulate,
            **adversary,
        ),
        "factor": method.factor if factor is None else factor,
        "mask_weights": method.mask_weights,
        "fusion": method.fusion,
        "reduction": method.get("reduction", "box"),  # Runs of before it have none.
        "warp_kernels": method.warp_kernels,
        "ema_decay": optim.ema_decay,
        "microbatches": config.training.accumulate,
    }
    if method.training == "paired":
        wanted = config.losses.get("perceptual", 0.0)
        distance = load_perceptual_distance() if wanted else None
        return PairedTraining(
            losses=PairedLosses(**config.losses), perceptual_distance=distance, **parts
        )
    parts["pool_size"] = method.pool_size
    if method.training == "cycle":
        parts["deterministic"] = method.deterministic
        return CycleTraining(losses=CycleLosses(**config.losses), **parts)
    return ContrastiveTraining(losses=ContrastiveLosses(**config.losses), **parts)


def check(config: ml_collections.ConfigDict) -> None:
    """Checks every field, and those that have to fit each other.

    Raises:
      UserError: one of them does not.
    """
    fields.check(config)
    data, optim, steps = config.data, config.optim, config.training.total_steps
    if data.load_size < data.size:
        raise UserError(
            f"config.data.load_size {data.load_size} must be at least config.data.size {data.size}"
        )
    if optim.warmup_steps >= steps:
        raise UserError(
            f"config.optim.warmup_steps {optim.warmup_steps} must be below "
            f"config.training.total_steps {steps}"
        )
    if config.method.training == "classifier":
        domain_names(config)
    elif config.losses.mask_low > config.losses.mask_high:
        raise UserError(
            f"config.losses.mask_low {config.losses.mask_low} must be at most "
            f"config.losses.mask_high {config.losses.mask_high}"
        )
    schedule(config)


def check_data(config: ml_collections.ConfigDict) -> None:
    """Checks that the data set is one for the training, and is told where its images are.

    Raises:
      UserError: it is not.
    """
    data, training = config.data, config.method.training
    try:
        if training == "paired":
            names.check_paired(data.name)
        elif training != "classifier" or data.name not in (*names.PAIRED, names.LABELLED):
            names.check_unpaired(data.name)
    except UserError as error:
        raise UserError(f"config.data.name: {error}") from error
    if data.name in names.ROOTED and data.root is None:
        raise UserError(f"config.data.root is missing: {data.name} needs the folder of the images")


def check_size(config: ml_collections.ConfigDict) -> None:
    """Checks that the training images suit the networks, which is known before there are any.

    Raises:
      UserError: they do not.
    """
    built = training(config)
    try:
        built.check_size(config.data.size)
    except ValueError as error:
        raise UserError(f"config.data.size does not fit: {error}") from error


def replicas(training: Training, config: ml_collections.ConfigDict) -> Replicas:
    """All devices of all processes, and what the state is on them.

    Raises:
      UserError: a field is not what it may be.
    """
    return Replicas(training.axes, mapping=config.training.parallel)


def check_batch(config: ml_collections.ConfigDict, devices: int) -> None:
    """Checks that the global batch splits over devices, and each device's part over its parts.

    Raises:
      UserError: it does not.
    """
    batch, parts = config.training.global_batch, config.training.accumulate
    if batch % (devices * parts):
        pieces = f"{devices} device{'s' * (devices > 1)}"
        if parts > 1:
            pieces += f" times config.training.accumulate {parts}"
        multiple = devices * parts
        below, above = batch // multiple * multiple, (batch // multiple + 1) * multiple
        near = f"{below} or {above}" if below else str(above)
        raise UserError(
            f"config.training.global_batch {batch} must be a multiple of the {pieces}: {near} "
            "would do"
        )


def initial_state(training: Training, config: ml_collections.ConfigDict) -> PyTree:
    """The state at step 0 as the step sees it on one device.

    Raises:
      ValueError: the size of the training images does not suit the networks, see `check_size`.
    """
    # Compiled as one program: operation by operation it takes ten times as long.
    init = jax.jit(training.init, static_argnums=1)
    return init(root_key(config), config.data.size)


def batch_shapes(
    config: ml_collections.ConfigDict, examples: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of so many examples of each domain, uint8.

    ``[B, H, W, 3]`` by the names of the domains; of a classifier ``[B, D, H, W, 3]``.
    """
    size = config.data.size
    if config.method.training == "classifier":
        shape = (examples, len(domain_names(config)), size, size, 3)
        return {"images": jax.ShapeDtypeStruct(shape, jnp.uint8)}
    images = jax.ShapeDtypeStruct((examples, size, size, 3), jnp.uint8)
    return {"source": images, "target": images}


def step_flops(config: ml_collections.ConfigDict, state: PyTree) -> float | None:
    """Floating point operations of one step on the whole global batch, before optimisation.

    Counted by XLA in the lowered step without any loop, since it would count a loop's body once.
    Every branch of a condition counts, so the lazy gradient penalty does at every step. Lowered for
    the CPU whatever the step runs on: jax counts nothing that is lowered for GPUs or TPUs.

    Args:
      config: the configuration.
      state: as the step sees it on one device; only its shapes and types count.

    Returns:
      The number of operations over all devices; None where jax was started without a CPU, as by
      ``JAX_PLATFORMS=cuda``.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
    whole = config.copy_and_resolve_references()
    whole.training.accumulate = 1
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    with jax.default_device(cpu):
        lowered: Any = jax.jit(training(whole).step).lower(
            shapes, batch_shapes(config, config.training.global_batch), root_key(config)
        )
        return float(lowered.cost_analysis()["flops"])


def root_key(config: ml_collections.ConfigDict) -> Array:
    """The key that all of a run's random keys are folded from."""
    return jax.random.key(config.seed)


def pairs(config: ml_collections.ConfigDict, *splits: str) -> list[PairSource]:
    """The splits of the data set, which is prepared first if need be."""
    data = config.data
    builder = sources.prepare(
        data.name,
        data.dir,
        size=data.size if data.name == "openmoji_gender" else None,
        root=data.root,
        direction=data.direction,
    )
    return [sources.open_pairs(builder, split) for split in splits]


def domains(config: ml_collections.ConfigDict) -> Domains:
    """The two domains of an unpaired data set, which is prepared first if need be."""
    data = config.data
    return open_domains(
        data.name,
        data.dir,
        size=data.size if data.name == "openmoji_gender_unpaired" else None,
        root=data.root,
        domains=data.domains if data.name == "portraits" else None,
    )


def domain_names(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """What the domains are called that a classifier tells apart.

    Raises:
      UserError: they are fewer than two, or a name could not be a bundle's, which is better known
        before than after training.
    """
    field = "config.classifier.domains"
    words = config.classifier.domains.split(",")
    found = tuple(check_name(word.strip(), f"{field}:") for word in words)
    if len(found) < 2 or len(set(found)) < len(found):
        raise UserError(f"{field}={config.classifier.domains}: give two different names or more")
    return found


def labelled(config: ml_collections.ConfigDict) -> Labelled:
    """The images by domain of a data set, which is prepared first if need be."""
    data = config.data
    return open_labelled(
        data.name,
        data.dir,
        domain_names(config),
        size=data.size if data.name.startswith("openmoji_gender") else None,
        root=data.root,
        direction=data.direction,
        portraits=data.domains if data.name == "portraits" else None,
    )


def reading(config: ml_collections.ConfigDict, start_step: int) -> dict[str, int]:
    """How the training batches of this process are read, see `pipeline.train_batches`."""
    return {
        "global_batch": config.training.global_batch,
        "seed": config.seed,
        "start_step": start_step,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def joint_augment(config: ml_collections.ConfigDict) -> augment.JointAugment:
    """The joint augmentation of training."""
    data = config.data
    return augment.JointAugment(
        size=data.size,
        load_size=data.load_size,
        flip=data.flip,
        max_shift=data.max_shift,
        scale=tuple(data.scale),
        max_rotation=data.max_rotation,
        colour=data.colour,
        channel_shuffle=data.channel_shuffle,
    )


def eval_crop(config: ml_collections.ConfigDict) -> augment.EvalCrop:
    """What brings test images to the training size."""
    return augment.EvalCrop(config.data.size)


def schedule(config: ml_collections.ConfigDict) -> Schedule:
    """When the loop logs, evaluates, saves and ends."""
    training = config.training
    return Schedule(
        total_steps=training.total_steps,
        log_every=training.log_every,
        evaluate_every=training.evaluate_every,
        save_every=training.save_every,
        steps_per_call=training.steps_per_call,
    )


def _with_types(fields: ml_collections.ConfigDict) -> dict[str, Any]:
    named = {name: jnp.dtype(fields[name]) for name in ("dtype", "param_dtype")}
    return {**fields.to_dict(), **named}
