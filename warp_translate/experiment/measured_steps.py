"""``steps.jsonl``: the evaluations of a run's steps, and the best of them."""

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
    """Reads a file of `MeasuredSteps`; no records if there is none.

    Raises:
      UserError: the file is damaged.
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
    """Evaluations of a run's steps. Those by the present protocol compare."""

    def __init__(
        self,
        records: list[Record],
        score: Score,
        protocol: Mapping[str, Any],
        cost: Mapping[str, Any] | None,
    ) -> None:
        """Takes earlier records.

        Args:
          records: from `read_records`.
          score: decides which step is the best.
          protocol: the present protocol.
          cost: the present cost of a translation; None for a classifier.
        """
        self._records, self._score = list(records), score
        self._protocol = json.loads(json.dumps([protocol, cost]))

    @property
    def steps(self) -> frozenset[int]:
        """The steps that were evaluated by the present protocol."""
        return frozenset(record["step"] for record in self._comparable())

    def best(self) -> Record | None:
        """The best of them, of equal ones the newest; None if none has the metric."""
        scored = [(self.score(each), each["step"], each) for each in self._comparable()]
        known = [each for each in scored if each[0] is not None]
        return max(known, key=lambda each: each[:2])[2] if known else None

    def score(self, record: Record) -> float | None:
        """The score of a step, larger is better; None without the metric."""
        return self._score({TEST + name: value for name, value in record["scalars"].items()})

    def add(self, record: Record) -> bool:
        """Adds an evaluation; returns True if it is the best."""
        self._records.append(json.loads(json.dumps(record)))
        self._records.sort(key=lambda each: each["step"])
        best = self.best()
        return best is not None and best["step"] == record["step"]

    def write(self, path: Path) -> None:
        """Writes one JSON line per record, by step, with a field "best". Atomic.

        Raises:
          OSError: it cannot be written.
        """
        best = self.best()
        for each in self._comparable():
            each["best"] = each is best
        lines = [json.dumps(sealed.seal(each), sort_keys=True) for each in self._records]
        storage.write_whole(path, "".join(f"{line}\n" for line in lines))

    def _comparable(self) -> list[Record]:
        return [
            each for each in self._records if [each["protocol"], each.get("cost")] == self._protocol
        ]
