"""``warp-translate site``: writes a web site that translates on its visitors' devices.

Static files with the generators and ONNX Runtime Web: pictures never leave the device.
"""

import functools
import shlex
from collections.abc import Sequence
from pathlib import Path

from warp_translate import storage
from warp_translate.cli import program
from warp_translate.cli.commands import Command
from warp_translate.cli.shared_flags import BUNDLE, BUNDLES, OUTPUT, define_path
from warp_translate.errors import UserError
from warp_translate.serving import bundle, registry, site

_RUNTIME = define_path(
    "runtime", f"The npm package {site.RUNTIME} as a file, where npm cannot fetch it."
)

COMMAND = Command(
    "site",
    examples=("--output=site", "--output=site --bundles=bundles"),
    required=(OUTPUT,),
    common=(BUNDLE, BUNDLES),
    advanced=(_RUNTIME,),
    text={
        "output": "Folder to write the site to.",
        "bundle": "Bundle of the site's generator; by default all that the package includes.",
        "bundles": "Folder of bundles whose generators the site offers.",
    },
)


def main(argv: Sequence[str]) -> None:
    """Writes the site and prints how to look at it."""
    del argv
    folder = storage.disk_path(str(OUTPUT.value), "--output")
    storage.check_folder(str(folder), "--output")
    if BUNDLE.value is not None and BUNDLES.value is not None:
        raise UserError(
            f"site takes --bundle={BUNDLE.value} or --bundles={BUNDLES.value}, not both"
        )
    if BUNDLE.value is not None:
        served = [bundle.find(BUNDLE.value)]
    else:
        served = _all(BUNDLES.value or str(bundle.INCLUDED))
    site.write(served, folder, package=Path(_RUNTIME.value) if _RUNTIME.value else None)
    names = ", ".join(each.name for each in served)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {names}, {size / 1e6:.0f} MB")
    where = shlex.quote(str(folder))
    print(f"to look at it: python -m http.server --bind 127.0.0.1 --directory {where}")


def _all(folder: str) -> list[bundle.Bundle]:
    """The generators of a folder."""
    opened = functools.partial(registry.open_bundle, backend="onnx")
    found = registry.Registry(folder, opened, note=lambda line: None).scan()
    if found.problems:
        raise UserError(next(iter(found.problems.values())))
    if not found.engines:
        raise UserError(f"--bundles={folder} holds no generator")
    return [engine.bundle for engine in found.engines.values()]


if __name__ == "__main__":
    program.run(main, COMMAND)
