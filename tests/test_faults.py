from pathlib import Path

from tests import faults


def test_seeded_faults_apply():
    assert len(faults.places(Path(faults.__file__).parents[1])) == len(faults.FAULTS)
