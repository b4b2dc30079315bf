"""`inspection.inspect` for tests, where some files kill their reader."""

import os
from pathlib import Path

from warp_translate.data.inspection import inspect as inspect_rightly


def inspect(path):
    if Path(path).name.startswith("killer"):
        os._exit(9)
    return inspect_rightly(path)


def inspect_chunk(paths):
    return [inspect(path) for path in paths]
