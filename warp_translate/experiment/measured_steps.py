"""The measured steps of a run: what was found of each, and which is the best."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warp_translate import sealed, storage
from warp_translate.errors import UserError
from warp_translate.evaluation.runs import TEST
from warp_translate.training.checkpoint import Score

FILE = "steps.jsonl"

Record = dict[str, Any]
""""step", "scalars", "protocol" and, of generators, "cost"; see `evaluate`."""


def read_records(path: Path) -> list[Record]:
    """Reads what `MeasuredSteps` wrote; nothing where there is no file.

    Raises:
      UserError: the file is none of this program's.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        records = [sealed.unseal(json.loads(line)) for line in lines]
        for record in records:
            record["step"], record["scalars"], record["protocol"]
        return records
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as measured steps ({error}): remove it, or choose another "
            "--output"
        ) from error


class MeasuredSteps:
    """What was measured of the steps of a run, each in one way or several.

    Of those that were measured in the same way one is the best.
    """

    def __init__(
        self,
        records: list[Record],
        score: Score,
        protocol: Mapping[str, Any],
        cost: Mapping[str, Any] | None,
    ) -> None:
        """Takes what is known already.

        Args:
          records: from `read_records`.
          score: decides which step is the best.
          protocol: how steps are measured now.
          cost: what the translations cost that are measured now; None of a classifier.
        """
        self._records, self._score = list(records), score
        self._way = json.loads(json.dumps([protocol, cost]))

    @property
    def steps(self) -> frozenset[int]:
        """The steps that were measured as they are now."""
        return frozenset(record["step"] for record in self._alike())

    def best(self) -> Record | None:
        """The best of them, of equal ones the newest; None where none has the metric."""
        scores = {each["step"]: self.score(each) for each in self._alike()}
        known = [(score, step) for step, score in scores.items() if score is not None]
        best = max(known, default=(None, None))[1]
        return next((each for each in self._alike() if each["step"] == best), None)

    def score(self, record: Record) -> float | None:
        """How good a step is, the larger the better; None without the metric."""
        return self._score({TEST + name: value for name, value in record["scalars"].items()})

    def add(self, record: Record) -> bool:
        """Takes a step that was measured now, and tells whether it is the best."""
        self._records.append(json.loads(json.dumps(record)))
        self._records.sort(key=lambda each: each["step"])
        best = self.best()
        return best is not None and best["step"] == record["step"]

    def write(self, path: Path) -> None:
        """Writes one JSON line for each record, in the order of the steps.

        A line has "best" beside what it was made of. The file is replaced as a whole, so that
        whoever reads it meanwhile finds no part of it.

        Raises:
          OSError: it cannot be written.
        """
        best = self.best()
        for each in self._alike():
            each["best"] = each is best
        lines = [json.dumps(sealed.seal(each), sort_keys=True) for each in self._records]
        storage.write_whole(path, "".join(f"{line}\n" for line in lines))

    def _alike(self) -> list[Record]:
        return [each for each in self._records if [each["protocol"], each.get("cost")] == self._way]
