"""The default configuration that every experiment starts from, and the parser of its argument.

Not an experiment by itself: ``paired.py`` and ``quickstart.py`` override what they are about.
"""

import difflib

import ml_collections
from ml_collections import config_dict


def parse_arg(arg: str | None, **defaults: bool | int | float | str) -> ml_collections.ConfigDict:
    """Reads the typed argument of an experiment file, ``file.py:size=128,factor=4,runlocal``.

    Args:
      arg: ``name=value`` pairs separated by commas; a name alone means true.
      **defaults: the names that are known, with their defaults; a value takes its default's type.

    Returns:
      The values by name.

    Raises:
      ValueError: a name is unknown or a value is not of the type.
    """
    values = dict(defaults)
    for part in filter(None, (arg or "").split(",")):
        name, has_value, text = part.partition("=")
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(
                f"unknown argument {name!r} of the experiment; {hint}it takes {', '.join(defaults)}"
            )
        kind = type(defaults[name])
        if kind is bool:
            if text.lower() not in ("", "true", "false") or (has_value and not text):
                raise ValueError(f"argument {name} takes true or false, got {text!r}")
            values[name] = text.lower() != "false"
        else:
            try:
                values[name] = kind(text)
            except ValueError:
                raise ValueError(f"argument {name} takes {kind.__name__}, got {text!r}") from None
    return ml_collections.ConfigDict(values)


def get_config(kind: str) -> ml_collections.ConfigDict:
    """Every field there is. Lengths are steps, sizes are pixels, weights of 0 cost nothing.

    Args:
      kind: "paired", "cycle", "contrastive" or "classifier", see ``warp_translate/training``.
    """
    config = _common(kind)
    return _classifier(config) if kind == "classifier" else _translation(config, kind)


def _common(kind: str) -> ml_collections.ConfigDict:
    """Data, optimisation, training and evaluation."""
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.data = data = ml_collections.ConfigDict()
    # Or "paired_folder", "paired_strips"; without pairs "unpaired_folder", "portraits" or TFDS's
    # "cycle_gan/..."; either may be a "tfds_folder"; a classifier takes any of these, and
    # "domain_folders".
    drawn_pairs = kind in ("paired", "classifier")
    data.name = "openmoji_gender" if drawn_pairs else "openmoji_gender_unpaired"
    data.dir = config_dict.placeholder(str)  # prepared sets; TFDS's own folder by default
    data.root = config_dict.placeholder(str)  # folders and portraits: where they are
    data.direction = "AtoB"  # paired_folder, paired_strips: or "BtoA"
    data.domains = "male_female"  # portraits: or "old_young"
    data.size = 256  # side of the training images
    data.load_size = 286  # shorter side before the random crop
    data.flip = True
    data.max_shift = 0
    data.scale = (1.0, 1.0)
    data.max_rotation = 0.0  # degrees
    data.colour = 0.0  # strength of the colour jitter
    data.channel_shuffle = 0.0  # probability

    config.method = method = ml_collections.ConfigDict()
    method.training = kind

    config.optim = optim = ml_collections.ConfigDict()
    optim.lr = 2e-4
    optim.b1 = 0.5
    optim.b2 = 0.999
    optim.schedule = "linear"  # or "constant", "cosine"
    optim.warmup_steps = 0
    optim.ema_decay = 0.999

    config.finetune = finetune = ml_collections.ConfigDict()
    # A run's folder or a bundle to begin with, for a cycle also one for each generator, with a
    # comma between; FOLDER:a_to_b is one generator of a cycle. "" begins at random.
    finetune.source = ""
    finetune.step = "best"  # or "latest", or a number of steps
    # What stays as it is, by the beginnings of the parameters' paths: "trunk" of a generator.
    finetune.freeze = ""

    config.training = training = ml_collections.ConfigDict()
    training.global_batch = 8  # over all devices of all processes
    training.accumulate = 1  # parts of a device's batch that are computed one after the other
    training.steps_per_call = 1  # steps on the devices before the host looks again
    training.parallel = "pmap"  # or "shard_map"; see launch/README.md
    training.total_steps = 100_000
    training.log_every = 100
    training.evaluate_every = 5_000
    training.save_every = 5_000
    training.keep_latest = 2
    training.keep_every = 0  # steps whose whole multiples are kept for good

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.batch_size = 8  # on each device
    evaluation.sheet_rows = 8
    return config


def _classifier(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """What tells domains apart."""
    config.classifier = classifier = ml_collections.ConfigDict()
    # Names; of "domain_folders", which has one folder for each, any number, at data.root.
    classifier.domains = "man,woman"
    classifier.width = 16
    classifier.stages = 4
    classifier.dtype = "float32"
    classifier.param_dtype = "float32"
    config.method.outliers = 0.5  # weight of images of no domain
    config.method.threshold = 0.8  # below this probability an image is of no known domain
    config.evaluation.best_metric = "test/cross_entropy"
    return config


def _translation(config: ml_collections.ConfigDict, kind: str) -> ml_collections.ConfigDict:
    """What translates."""
    method = config.method
    method.factor = 2  # how many times smaller the trunk's image is
    method.mask_weights = "pretranslated"  # or "warped": which image the mask multiplies
    # What the method is compared with: "pretranslated" and "warped" are that image alone,
    # "unwarped" blends the pretranslated image with the original as it is.
    method.fusion = "full"
    method.reduction = "box"  # or "linear", "nearest": how the trunk's image is made
    method.warp_kernels = False  # on TPUs; compiled and interpreted, but no TPU has run them yet

    config.generator = generator = ml_collections.ConfigDict()
    generator.width = 32
    generator.blocks = 9
    generator.head = "projected"  # or "literal"
    generator.head_width = 8
    generator.head_kernel = 3
    generator.displacement_size = "original"  # or "reduced": read off there and enlarged
    generator.max_displacement = 16.0  # reduced pixels
    generator.mask_bias = 0.0
    generator.border = "reflect"  # or "repeat", "zero"
    generator.remat = "none"  # or "blocks", "all": less memory for a slower step
    generator.dtype = "float32"  # or "bfloat16"
    generator.param_dtype = "float32"

    config.discriminator = discriminator = ml_collections.ConfigDict()
    discriminator.width = 64
    discriminator.layers = 3  # 3 sees patches of 70 pixels, 2 of 34
    discriminator.scales = 2
    # Without pairs the domains are alike, and a discriminator so bounded tells too little.
    discriminator.spectral_norm = kind == "paired"
    discriminator.dtype = "float32"
    discriminator.param_dtype = "float32"

    config.adversary = adversary = ml_collections.ConfigDict()
    adversary.loss = "least_squares"  # or "bce", "hinge", "relativistic"
    adversary.r1 = 0.0 if kind == "paired" else 0.2
    adversary.r2 = 0.0
    adversary.penalty_every = 16 if kind == "paired" else 4
    adversary.colour = 0.0  # differentiable augmentation: see ops/augment.py
    adversary.translation = 0.0
    adversary.cutout = 0.0

    config.losses = losses = ml_collections.ConfigDict()
    losses.smoothness_first = 0.0
    losses.smoothness_second = 0.0
    losses.mask_variation = 0.0
    losses.mask_band = 0.0
    losses.mask_low = 0.1
    losses.mask_high = 0.9
    if kind == "paired":
        losses.adversarial = 1.0
        losses.l1_output = 100.0
        losses.l1_pretranslated = 20.0
        losses.l1_warped = 5.0  # much more, and the warp does what only new pixels can
        losses.pyramid_levels = 4
        losses.feature_matching = 0.0
        losses.perceptual = 0.0  # features of EfficientNet-Lite0; needs the extra eval
    else:
        losses.adversarial = 1.0
        losses.adversarial_pretranslated = 0.5
        losses.adversarial_start = 0
        losses.adversarial_ramp = 0
        losses.identity = 1.0
        losses.identity_pretranslated = 3.0
        method.pool_size = 50  # on each device
    if kind == "cycle":
        method.deterministic = False  # on GPUs: equal bits on every run, for one more scatter
        losses.cycle = 3.0
        losses.cycle_full = 0.3
    elif kind == "contrastive":
        losses.contrast = 1.0
        losses.contrast_identity = 1.0
        losses.temperature = 0.07
        losses.patches = 256

    config.finetune.freeze_discriminator = ""  # "scale_0/Conv_0,scale_0/Conv_1" for instance
    config.optim.discriminator_lr = 2e-4
    config.optim.discriminator_b1 = 0.5
    evaluation = config.evaluation
    # Decides the best checkpoint; which values are better follows from what it is.
    evaluation.best_metric = "test/output/l1" if kind == "paired" else "test/kernel_distance"
    # What distances see: "" for none, "efficientnet_lite0", or a .safetensors or .onnx file; with
    # ":crops" at its end at full resolution.
    evaluation.extractor = "" if kind == "paired" else "efficientnet_lite0"
    # The run of a classifier or an .onnx file that tells whether translations pass for the target,
    # "" for none, and its classes that A and B are: by default the first two.
    evaluation.recogniser = ""
    evaluation.recogniser_domains = ""
    evaluation.factors = ()  # further factors that the same parameters are measured at
    return config


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Makes everything so small that the whole run takes seconds: what ``runlocal`` means."""
    config.data.size = config.data.load_size = 32
    config.data.max_shift = min(config.data.max_shift, 2)
    if config.method.training == "classifier":
        config.classifier.update(width=8, stages=2)
    else:
        config.generator.update(width=8, blocks=1)
        config.discriminator.update(width=8, layers=1, scales=1)
        if config.method.training == "paired":
            config.losses.pyramid_levels = 2
        else:
            config.method.pool_size = 4
    config.training.update(
        global_batch=8, total_steps=4, log_every=1, evaluate_every=2, save_every=2
    )
    config.evaluation.sheet_rows = 4
    return config
