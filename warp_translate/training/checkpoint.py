"""Checkpoints of the whole training state with Orbax, in ``<workdir>/checkpoints``."""

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import NamedSharding
from orbax.checkpoint import checkpoint_managers

from warp_translate import storage
from warp_translate.errors import UserError
from warp_translate.training import checkpoint_sync, distributed, step_checksums
from warp_translate.training.checkpoint_sync import StepMirror
from warp_translate.types import PyTree

FOLDER = "checkpoints"
DAMAGED_FOLDER = "checkpoints_damaged"

_ARRAYS = "default/"  # In the folder of a step.
_MANIFEST = "default/manifest.ocdbt"  # Without it no array can be read.

WhichStep = int | Literal["best", "latest"]

Score = Callable[[Mapping[str, float]], float | None]
"""What decides which step is the best: of the metrics of a step, a number that is largest for the
best, or None where they do not tell."""


class SaveFailed(UserError):
    """A state cannot be written; what was saved before is kept, and later ones may be saved."""


class CheckpointVanished(UserError):
    """A step was deleted before it was read, as a training does that goes on."""


class DamagedCheckpoint(UserError):
    """A step is not as it was saved.

    Attributes:
      state: what is wrong with it.
      remedy: what to do where no other step will do.
    """

    def __init__(self, state: str, remedy: str) -> None:
        super().__init__(state, remedy)
        self.state, self.remedy = state, remedy

    def __str__(self) -> str:
        return f"{self.state}: {self.remedy}"


def newest_step(workdir: str | os.PathLike[str]) -> int:
    """The newest complete step of a run, 0 where there is none; opens nothing."""
    return max(_steps(storage.to_path(workdir) / FOLDER), default=0)


def not_finite(state: PyTree) -> str | None:
    """The path of the first leaf that holds a NaN or an infinity; None where all are finite.

    Args:
      state: arrays of the host or of devices.
    """
    for path, leaf in _leaves(state):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        parts = [leaf]
        if isinstance(leaf, jax.Array):
            shards = leaf.addressable_shards
            parts = [shard.data for shard in shards[: 1 if leaf.is_fully_replicated else None]]
        if not all(np.isfinite(np.asarray(part)).all() for part in parts):
            return path
    return None


class Checkpointer:
    """Saves and restores states; keeps the latest ones and the best one.

    Saving goes on in the background, and a save that was cut leaves nothing that a restore would
    see. Every step has checksums of its files, which are compared before it is restored. With
    several processes all of them must call the same methods, on a folder that all of them see; each
    writes what only it has. The number of devices and of processes may differ when the run is taken
    up.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        score: Score,
        keep_latest: int = 2,
        keep_every: int = 0,
        read_only: bool = False,
        say: Callable[[str], None] = lambda line: logging.warning("%s", line),
    ):
        """Opens the checkpoints of a run.

        A writer moves steps that are damaged out of the way, so that the newest one is whole.

        Args:
          workdir: folder of the run.
          score: which step is the best and kept.
          keep_latest: how many of the newest steps are kept.
          keep_every: of which number of steps whole multiples are kept for good; 0 for none.
          read_only: for readers: creates and deletes nothing, and with several processes only the
            one that asks takes part.
          say: is told in a line of steps that are damaged, or have no checksums.

        Raises:
          UserError: the folder cannot be read, or of a writer's steps none is whole.
        """
        self._score, self._read_only, self._say = score, read_only, say
        self._verified: dict[int, bool] = {}  # By step: whether it has checksums.
        self._unscored: set[int] = set()  # Steps whose damaged metrics were reported.
        self._folder = storage.absolute(storage.to_path(workdir)) / FOLDER
        self._mirror: StepMirror | None = None
        if storage.scheme(self._folder) == "s3":
            if jax.process_count() > 1 and not read_only:
                raise UserError(
                    f"{workdir}: several processes cannot write the parts of a checkpoint to "
                    "s3://; give a folder that all of them see, or gs://"
                )
            self._mirror = StepMirror(self._folder)
        elif storage.scheme(self._folder) == "gs":
            _check_bucket(self._folder)
        self._putting: Future[None] | None = None  # What brings the last step into the bucket.
        self._begun: int | None = None  # The step that may still be being written.
        self._refused: SaveFailed | None = None  # How it failed, where it did at once.

        def known_score(metrics: Mapping[str, float]) -> float:
            # Orbax keeps the largest.
            found = _found(score, metrics)
            return -math.inf if found is None else found

        mine = jax.process_index()
        together = ocp.options.MultiprocessingOptions()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=mine, active_processes={mine}, barrier_sync_key_prefix=f"reader_{mine}"
        )
        if not read_only:
            self._set_damaged_aside()
        if self._mirror:
            self._mirror.fetch_steps()
        with self._damage():
            self._manager = (_Reader if read_only else ocp.CheckpointManager)(
                self._mirror.local if self._mirror else self._plain_folder(),
                # Named, so that a reader that never saved knows the format too.
                item_handlers=ocp.PyTreeCheckpointHandler(),
                options=ocp.CheckpointManagerOptions(
                    # Without best_fn the metrics would not reach the disk.
                    best_fn=known_score,
                    best_mode="max",
                    preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                        [
                            checkpoint_managers.LatestN(keep_latest),
                            checkpoint_managers.BestN(
                                get_metric_fn=known_score,
                                n=1,
                                keep_checkpoints_without_metrics=False,
                            ),
                            *([checkpoint_managers.EveryNSteps(keep_every)] if keep_every else []),
                        ]
                    ),
                    cleanup_tmp_directories=not read_only,
                    create=not read_only,
                    read_only=read_only,
                    multiprocessing_options=alone if read_only else together,
                    temporary_path_class=(
                        _CheckedMark if storage.scheme(self._folder) == "gs" else _CheckedRename
                    ),
                ),
            )

    def steps(self) -> list[int]:
        """The complete steps that are there now, in ascending order; also those of another writer.

        The other methods know of the steps that were there when this was last asked.
        """
        if self._mirror and self._read_only:  # To a writer what it has on the disk is true.
            self._mirror.fetch_steps()
        self._verified.clear()
        try:
            self._manager.reload()
        except FileNotFoundError:
            return []  # A reader may come before the first save has made the folder.
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def best_step(self, score: Score | None = None) -> int | None:
        """The step with the largest score, or None if none has one; of equal ones the newest.

        Args:
          score: other than the one that decides which step is kept.
        """
        return next(iter(self._best_first(score or self._score)), None)

    def metrics(self, step: int) -> dict[str, float]:
        """What was measured at a step; empty where it was not evaluated.

        Raises:
          DamagedCheckpoint: the file is damaged.
        """
        self._compare(step, _but_arrays)
        with self._damage(step):
            try:
                return dict(json.loads((self._local(step) / "metrics" / "metrics").read_text()))
            except FileNotFoundError:
                return {}

    def verify(self, step: int) -> bool:
        """Compares the files of a step with their checksums; once, until `steps` is asked again.

        Returns:
          False where there are none, as in runs of earlier versions.

        Raises:
          DamagedCheckpoint: they are not those that were saved.
          CheckpointVanished: the step was deleted meanwhile.
        """
        if step not in self._verified:
            self._fetch_arrays(step)
            has_checksums = self._compare(step, _everything)
            if not has_checksums and all(self._verified.values()):  # Once is enough.
                self._say(_unverified(self._folder, step))
            self._verified[step] = has_checksums
        return self._verified[step]

    def save(self, step: int, state: PyTree, metrics: Mapping[str, float] | None = None) -> None:
        """Begins to save the state in the background, when the one before is written.

        Args:
          step: steps done.
          state: arrays of the host, or of devices if they span those of all processes.
          metrics: the evaluation of this very state, if there was one.

        Raises:
          SaveFailed: the disk refuses this state, or has refused the one before; then this one is
            being saved nevertheless.
        """
        before = self._end()
        self._begun, self._refused = step, None
        try:
            self._manager.save(
                step,
                args=ocp.args.PyTreeSave(state),
                metrics=dict(metrics) if metrics is not None else None,
                force=True,
            )
        except (OSError, ValueError) as error:
            if _is_of_jax(error) or not _is_refusal(error):
                raise
            self._refused = self._failed(error)
            raise self._refused from error
        if self._mirror:
            self._putting = self._mirror.put_steps(after=self._manager.wait_until_finished)
        if before:
            raise before

    def restore(self, step: int, target: PyTree) -> PyTree:
        """Reads a whole state.

        Args:
          step: a step that was saved.
          target: a state of the same structure; only shapes, types and shardings are looked at. A
            leaf whose first axis lies over devices may have been saved by another number of them:
            of too many parts the last are left out, and missing ones are filled with zeros.

        Returns:
          The state: where the target has a sharding, arrays that lie so; elsewhere host arrays.

        Raises:
          UserError: a leaf that was saved has another shape than the target's, or is missing.
        """
        return self._restore(step, target, partial=False)

    def restore_part(self, step: int, target: PyTree) -> PyTree:
        """Reads a part of a state, for example the moving average of the generator alone.

        Args:
          step: a step that was saved.
          target: nested dicts that mirror the path to the part, with arrays or shapes as leaves.

        Returns:
          The same nested dicts with host arrays.

        Raises:
          UserError: see ``restore``.
          CheckpointVanished: the step was deleted before all was read.
        """
        before = self._files(step)
        try:
            part = self._restore(step, target, partial=True)
        except Exception as error:  # What lies beneath Orbax has no common base of its own.
            if self._files(step) != before or not before:
                raise self._vanished(step) from error
            raise
        if self._files(step) != before:
            raise self._vanished(step)
        return part

    def resolve(self, which: WhichStep, *, whole: bool = True) -> int:
        """The number of the step that is meant.

        Args:
          which: a step, "latest", or "best", which is the latest where nothing was evaluated.
          whole: whether of the latest and the best those are passed over that are damaged.

        Raises:
          UserError: there is no such step.
          DamagedCheckpoint: all of them are damaged.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UserError(
                f"no checkpoint in {self._folder}: give the --workdir of a run that was trained"
            )
        if which in ("latest", "best"):
            best = self._best_first(self._score) if which == "best" else []
            # Where nothing whole was measured, the newest.
            ahead = best + [step for step in reversed(steps) if step not in best]
            return self._first_whole(ahead) if whole else ahead[0]
        if which not in steps:
            known = ", ".join(map(str, steps))
            raise UserError(f"no checkpoint of step {which} in {self._folder}; there are: {known}")
        return int(which)

    def bytes(self, step: int) -> int:
        """What a step takes on the disk."""
        return storage.bytes_below(self._folder / str(step))

    def remove(self, step: int) -> None:
        """Deletes a step, at once and for all readers; what of it is left is cleared away."""
        if storage.scheme(self._folder):
            checkpoint_sync.remove(self._folder, step)
            return
        gone = self._folder / f"{step}.removed.orbax-checkpoint-tmp"
        (self._folder / str(step)).rename(gone)
        shutil.rmtree(gone)

    def wait(self) -> None:
        """Waits until everything is on the disk, or in the bucket.

        Raises:
          SaveFailed: the disk has refused the state that was saved last.
        """
        if failed := self._end() or self._refused:
            raise failed

    def close(self) -> None:
        """Waits and closes.

        Raises:
          SaveFailed: see ``wait``.
        """
        failed = self._end() or self._refused
        self._manager.close()
        if failed:
            raise failed

    def _end(self) -> SaveFailed | None:
        """Waits for the save that was begun last; returns how it failed, once."""
        putting, self._putting = self._putting, None
        try:
            if putting:
                putting.result()
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError, UserError) as error:
            if _is_of_jax(error):
                raise
            # What failed in the background is of the stores, which have no error of their own.
            return self._failed(error)
        return None

    def _failed(self, error: Exception) -> SaveFailed:
        """Clears away what was written of the step, which would take the space it lacked."""
        folder = self._mirror.local if self._mirror else self._folder
        if storage.scheme(folder) is None:  # In a bucket the next start does so.
            for remains in folder.glob(f"{self._begun}.*-tmp*"):
                shutil.rmtree(remains, ignore_errors=True)
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        reason = os.strerror(int(code[1])) if code else reason
        return SaveFailed(
            f"step {self._begun} cannot be saved in {self._folder} ({reason}): free some space "
            "there, or choose another --workdir"
        )

    def _files(self, step: int) -> frozenset[str]:
        return storage.files_below(self._folder / str(step))

    def _local(self, step: int) -> Path:
        """The folder that a step is read from."""
        return (self._mirror.local if self._mirror else self._folder) / str(step)

    def _fetch_arrays(self, step: int) -> None:
        if self._mirror:
            self._mirror.fetch_arrays(step)

    def _best_first(self, score: Score) -> list[int]:
        """The steps that have a score, the best first; says which cannot be among them."""
        scores = {}
        for step in self._manager.all_steps():
            try:
                found = _found(score, self.metrics(step))
            except DamagedCheckpoint as error:
                if step not in self._unscored:
                    self._unscored.add(step)
                    self._say(f"{error.state}; the best step is chosen without it")
                continue
            if found is not None:
                scores[step] = found
        return sorted(scores, key=lambda step: (scores[step], step), reverse=True)

    def _first_whole(self, steps: list[int]) -> int:
        """The first of these steps that is whole; says so where it is not the first."""
        damaged: DamagedCheckpoint | None = None
        for step in steps:
            try:
                self.verify(step)
            except CheckpointVanished:
                continue
            except DamagedCheckpoint as error:
                damaged = damaged or error
                continue
            if damaged:
                self._say(f"{damaged.state}; step {step} is used instead")
            return step
        raise damaged or self._vanished(steps[0])

    def _compare(self, step: int, wanted: Callable[[str], bool]) -> bool:
        """Compares files of a step with their checksums; returns whether it has any."""
        before = self._files(step)
        with self._damage(step):
            if not step_checksums.known(self._local(step)):
                return False
            problem = step_checksums.damaged(self._local(step), wanted)
        if problem and self._files(step) != before:
            raise self._vanished(step)
        if problem:
            raise _damaged(self._folder, step, problem)
        return True

    def _set_damaged_aside(self) -> None:
        """Moves steps away that are damaged: they count as the newest, and keep others out."""
        found: tuple[list[str], str | None] = ([], None)
        if distributed.is_writer():
            try:
                found = self._moved_aside(), None
            except UserError as error:  # The others are not to wait for this one.
                found = [], str(error)
        lines, mistake = distributed.from_first_process(found)
        if mistake is not None:
            raise UserError(mistake)
        for line in lines:
            self._say(line)
        newest = max(_steps(self._folder), default=None)
        if newest is not None:
            self._verified[newest] = step_checksums.known(self._folder / str(newest))

    def _moved_aside(self) -> list[str]:
        whole: int | None = None
        damaged: list[tuple[int, str]] = []
        lines = []
        for step in sorted(_steps(self._folder), reverse=True):
            folder = self._folder / str(step)
            with self._damage(step):
                if not step_checksums.known(folder):
                    if whole is None:
                        lines.append(_unverified(self._folder, step))
                        whole = step
                    continue
                # Of those before the newest what is read of all of them.
                wanted = _everything if whole is None else _but_arrays
                problem = step_checksums.damaged(folder, wanted)
            if problem:
                damaged.append((step, problem))
            elif whole is None:
                whole = step
        if damaged and whole is None:
            raise UserError(
                f"{_damaged(self._folder, *damaged[0]).state}, and no other one is whole: put a "
                f"copy of one there, or remove {self._folder} to begin anew"
            )
        return lines + [self._move_aside(step, problem, whole) for step, problem in damaged]

    def _move_aside(self, step: int, problem: str, whole: int | None) -> str:
        """Takes a damaged step away, and says so."""
        if storage.scheme(self._folder):
            with self._damage(step):
                checkpoint_sync.remove(self._folder, step)
            place = "removed"
        else:
            aside = self._folder.with_name(DAMAGED_FOLDER)
            target = aside / str(step)
            number = 1
            while target.exists():
                number += 1
                target = aside / f"{step}.{number}"
            aside.mkdir(exist_ok=True)
            (self._folder / str(step)).rename(target)
            place = f"moved to {target}"
        return (
            f"{_damaged(self._folder, step, problem).state} and was {place}; step {whole} is the "
            "newest that is whole"
        )

    def _plain_folder(self) -> Path:
        """The folder by a path that Orbax does not take for a pattern."""
        if not self._read_only and storage.scheme(self._folder) is None:
            self._folder.mkdir(parents=True, exist_ok=True)
        return storage.plain_alias(self._folder)

    def _vanished(self, step: int) -> CheckpointVanished:
        return CheckpointVanished(
            f"the checkpoint of step {step} in {self._folder} was deleted while it was read; a "
            "training that goes on keeps the latest and the best"
        )

    def _restore(self, step: int, target: PyTree, *, partial: bool) -> PyTree:
        self.verify(step)
        self._fetch_arrays(step)
        with self._damage(step):
            self._check(step, target)
            found = self._manager.restore(
                step,
                args=ocp.args.PyTreeRestore(
                    target,
                    restore_args=jax.tree.map(_restore_args, target),
                    partial_restore=partial,
                ),
            )
        if path := not_finite(found):
            raise _damaged(self._folder, step, f"{path} holds values that are not finite")
        return found

    @contextlib.contextmanager
    def _damage(self, step: int | None = None) -> Iterator[None]:
        """Says of files that cannot be read that they may be damaged."""
        try:
            yield
        except (OSError, ValueError, KeyError) as error:  # As Orbax and TensorStore put it.
            if _is_of_jax(error):
                raise
            words = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
            which = "a checkpoint" if step is None else f"the checkpoint of step {step}"
            raise DamagedCheckpoint(
                f"{which} in {self._folder} cannot be read ({words})",
                "try again; if it stays so it is damaged, and without it the one before is the "
                "newest",
            ) from error

    def _check(self, step: int, target: PyTree) -> None:
        """Orbax fills a target of another shape without a word, so the shapes are compared here."""
        saved = {path: leaf.shape for path, leaf in _leaves(self._manager.item_metadata(step))}
        for path, leaf in _leaves(target):
            shape, common = leaf.shape, int(_lies_over_devices(leaf))
            if path not in saved or saved[path][common:] != shape[common:]:
                found = f"has {saved[path]}" if path in saved else "does not have it"
                raise UserError(
                    f"the checkpoint of step {step} in {self._folder} does not fit the "
                    f"configuration: {path} should be {shape}, the checkpoint {found}; use the "
                    "configuration it was trained with, or another --workdir"
                )


class _Reader(ocp.CheckpointManager):
    """Opens a folder in which the metrics of a step are damaged."""

    def metrics(self, step: int) -> PyTree | None:
        try:
            return super().metrics(step)
        except ValueError:
            return None


class _CheckedRename(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The folder of a step on a disk, which gets its name when its checksums are written."""

    async def finalize(self) -> None:
        await _finish(self)
        await super().finalize()


class _CheckedMark(ocp.path.atomicity.CommitFileTemporaryPath):
    """The folder of a step in a bucket, which gets its mark when its checksums are written."""

    async def finalize(self) -> None:
        await _finish(self)
        await super().finalize()


async def _finish(path: Any) -> None:
    """Writes the checksums of a step, which Orbax parts into items with such folders as well."""
    if not path.get_final().name.isdigit():
        return
    # What Orbax writes of a step from here on would be the time, and after the checksums.
    if path._checkpoint_metadata_store:
        await asyncio.to_thread(path._checkpoint_metadata_store.wait_until_finished)
        path._checkpoint_metadata_store = None
    folder = storage.to_path(os.fspath(path.get()))
    if not (folder / _MANIFEST).is_file():
        raise OSError(f"{_MANIFEST} was not written, so the arrays cannot be read")
    await asyncio.to_thread(step_checksums.write, folder)


def _everything(name: str) -> bool:
    return True


def _but_arrays(name: str) -> bool:
    return not name.startswith(_ARRAYS)


def _steps(folder: Path) -> list[int]:
    """The complete steps in a folder of checkpoints."""
    if storage.scheme(folder):
        return list(checkpoint_sync.steps(folder))
    return [int(path.name) for path in folder.glob("*") if path.name.isdigit()]


def _damaged(folder: Path, step: int, problem: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"the checkpoint of step {step} in {folder} is damaged ({problem})",
        "choose another step with --step, or put a copy of this one there",
    )


def _unverified(folder: Path, step: int) -> str:
    return (
        f"the checkpoint of step {step} in {folder} has no checksums, as those of earlier "
        "versions, and is not verified"
    )


def _is_of_jax(error: Exception) -> bool:
    """Whether it was no file but a device, or another process, that all of them wait for."""
    return isinstance(error, jax.errors.JaxRuntimeError) or distributed.is_peer_loss(error)


def _is_refusal(error: Exception) -> bool:
    """Whether a file system has refused; TensorStore's errors are ValueErrors like many others."""
    words = r"[A-Z_]+: |Error (opening|writing|reading) "  # A status, where it is known.
    return isinstance(error, OSError) or bool(re.match(words, str(error)))


def _check_bucket(folder: Path) -> None:
    """Asks for the bucket itself, as Orbax does, which reading and writing files does not take."""
    from google.cloud import storage as google

    try:
        google.Client().get_bucket(str(folder).split("/")[2])
    except Exception as error:  # Of several packages.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} cannot be opened ({reason}): checkpoints in gs:// take the permission "
            "storage.buckets.get beside those to read and write objects"
        ) from error


def _found(score: Score, metrics: Mapping[str, float]) -> float | None:
    """The score of metrics; one that is no number is none."""
    found = score(metrics)
    return None if found is None or math.isnan(found) else found


def _restore_args(leaf: Any) -> ocp.RestoreArgs:
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array,
        dtype=leaf.dtype,
        sharding=sharding,
        global_shape=leaf.shape,
        strict=not _lies_over_devices(leaf),
    )


def _lies_over_devices(leaf: Any) -> bool:
    """Whether the first axis of a leaf is one of devices."""
    sharding = getattr(leaf, "sharding", None)
    return isinstance(sharding, NamedSharding) and any(sharding.spec[:1])


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """Leaves by path, the same for attributes, keys and positions, as Orbax writes them."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
