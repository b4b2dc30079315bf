"""The loggers' files read back with independent parsers."""

import io
import json
import math
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from warp_translate import sealed, storage
from warp_translate.training import logging


def _masked_crc32c(data):
    """The checksum of the record format: CRC-32C (RFC 3720) bit by bit, rotated and offset."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _read_events(folder):
    """All events of the TensorBoard files of a folder, as its own reader would take them."""
    from tensorboardX.proto import event_pb2

    events = []
    for path in sorted(folder.glob("*tfevents*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            content = data[12 : 12 + length]
            checks = struct.unpack("<I", data[8:12]) + struct.unpack("<I", data[12 + length :][:4])
            assert checks == (_masked_crc32c(data[:8]), _masked_crc32c(content))
            events.append(event_pb2.Event.FromString(content))
            data = data[16 + length :]
    return events


def _read_scalars(folder):
    return [
        (event.step, {v.tag: v.simple_value for v in event.summary.value})
        for event in _read_events(folder)
        if event.HasField("summary")
    ]


def _read_lines(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


class _Recorder(logging.NullLogger):
    """Notes what it is told."""

    def __init__(self, fail=False):
        self.calls = []
        self._fail = fail

    def write_scalars(self, step, scalars):
        self.calls.append(("scalars", step, scalars))

    def write_images(self, step, images):
        self.calls.append(("images", step, images))

    def flush(self):
        self.calls.append(("flush",))

    def close(self):
        self.calls.append(("close",))
        if self._fail:
            raise OSError("disk full")


class TestTensorBoardLogger:
    def test_scalars_are_read_back_as_soon_as_they_are_flushed(self, tmp_path):
        logger = logging.TensorBoardLogger(tmp_path / "run")
        logger.write_scalars(3, {"loss/g": 1.5, "loss/d": jnp.float32(-2.25)})
        logger.write_scalars(7, {"loss/g": np.float32(0.5), "bad": math.nan})
        logger.flush()
        (first, second) = _read_scalars(tmp_path / "run")
        assert first == (3, {"loss/g": 1.5, "loss/d": -2.25})
        assert second[0] == 7 and second[1]["loss/g"] == 0.5 and math.isnan(second[1]["bad"])
        logger.close()

    def test_the_file_begins_as_tensorboard_wants_it(self, tmp_path):
        logging.TensorBoardLogger(tmp_path).close()
        assert _read_events(tmp_path)[0].file_version == "brain.Event:2"

    @pytest.mark.parametrize("channels", [1, 3])
    def test_images_are_read_back_to_the_bit(self, tmp_path, rng, channels):
        pictures = {
            name: rng.integers(0, 256, (5, 7, channels), dtype=np.uint8) for name in ("a/x", "b")
        }
        logger = logging.TensorBoardLogger(tmp_path)
        logger.write_images(11, pictures)
        logger.close()
        (event,) = [e for e in _read_events(tmp_path) if e.HasField("summary")]
        assert event.step == 11 and [v.tag for v in event.summary.value] == ["a/x", "b"]
        for value in event.summary.value:
            assert (value.image.height, value.image.width) == (5, 7)
            read = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
            np.testing.assert_array_equal(*np.broadcast_arrays(read, pictures[value.tag]))

    @pytest.mark.parametrize(
        "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2))]
    )
    def test_other_arrays_are_refused_by_name(self, tmp_path, image):
        logger = logging.TensorBoardLogger(tmp_path)
        with pytest.raises(ValueError, match=r"image 'grid' must be uint8.*got"):
            logger.write_images(0, {"grid": image})
        logger.close()

    def test_a_resumed_run_hides_the_steps_that_are_done_again(self, tmp_path):
        for start in (0, 40):
            logger = logging.TensorBoardLogger(tmp_path, start_step=start)
            logger.write_scalars(start + 10, {"x": 1.0})
            logger.close()
        # Two files, though made within one second; a session start purges its step and later ones.
        assert len(list(tmp_path.glob("*tfevents*"))) == 2
        starts = [e for e in _read_events(tmp_path) if e.HasField("session_log")]
        assert [(e.step, e.session_log.status) for e in starts] == [(1, 1), (41, 1)]

    def test_nothing_to_write_writes_nothing(self, tmp_path):
        logger = logging.TensorBoardLogger(tmp_path)
        logger.write_scalars(1, {})
        logger.write_images(1, {})
        logger.close()
        assert _read_scalars(tmp_path) == []

    def test_flushing_and_closing_again_do_nothing(self, tmp_path):
        logger = logging.TensorBoardLogger(tmp_path)
        logger.close()
        logger.flush()
        logger.close()

    def test_importing_the_module_does_not_import_tensorboardx(self):
        code = (
            "import sys, warp_translate.training.logging; sys.exit('tensorboardX' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestJsonLinesLogger:
    def test_a_line_for_each_write(self, tmp_path):
        path = tmp_path / "new" / "m.jsonl"
        times = iter([100.5, 101.0])
        logger = logging.JsonLinesLogger(path, wall_clock=lambda: next(times))
        logger.write_scalars(1, {"a": 0.25, "b": jnp.float32(2)})
        logger.write_scalars(np.int64(2), {"a": np.float32(3)})
        # Before any flush: a run that is killed leaves what it has logged.
        assert [sealed.unseal(line) for line in _read_lines(path)] == [
            {"step": 1, "wall_time": 100.5, "scalars": {"a": 0.25, "b": 2.0}},
            {"step": 2, "wall_time": 101.0, "scalars": {"a": 3.0}},
        ]
        logger.close()

    def test_numbers_that_json_lacks_stay_readable(self, tmp_path):
        path = tmp_path / "m.jsonl"
        logger = logging.JsonLinesLogger(path)
        logger.write_scalars(1, {"n": math.nan, "p": math.inf, "m": -math.inf})
        logger.close()
        scalars = _read_lines(path)[0]["scalars"]
        assert scalars == {"n": "NaN", "p": "Infinity", "m": "-Infinity"}
        assert math.isnan(float(scalars["n"])) and float(scalars["m"]) == -math.inf

    def test_a_resumed_run_goes_on_and_the_later_line_wins(self, tmp_path):
        path = tmp_path / "m.jsonl"
        for value, steps in ((1.0, (1, 2, 3)), (2.0, (2, 3, 4))):
            logger = logging.JsonLinesLogger(path)
            for step in steps:
                logger.write_scalars(step, {"a": value})
            logger.close()
        lines = _read_lines(path)
        assert [line["step"] for line in lines] == [1, 2, 3, 2, 3, 4]
        last = {line["step"]: line["scalars"]["a"] for line in lines}
        assert last == {1: 1.0, 2: 2.0, 3: 2.0, 4: 2.0}

    @pytest.mark.parametrize("cut", ['{"step": 2, "wall', '{"step": 2}'])
    def test_a_line_that_was_cut_short_is_removed(self, tmp_path, cut):
        path = tmp_path / "m.jsonl"
        path.write_text('{"step": 1}\n' + cut)
        logger = logging.JsonLinesLogger(path)
        logger.write_scalars(2, {})
        logger.close()
        assert [line["step"] for line in _read_lines(path)] == [1, 2]

    def test_pictures_are_not_written(self, tmp_path):
        path = tmp_path / "m.jsonl"
        logger = logging.JsonLinesLogger(path)
        logger.write_images(1, {"a": np.zeros((2, 2, 3), np.uint8)})
        logger.close()
        assert path.read_text() == ""

    def test_flushing_and_closing_again_do_nothing(self, tmp_path):
        logger = logging.JsonLinesLogger(tmp_path / "m.jsonl")
        logger.close()
        logger.flush()
        logger.close()


class TestMultiLogger:
    def test_everything_goes_to_each(self):
        recorders = [_Recorder(), _Recorder()]
        logger = logging.MultiLogger(recorders)
        images = {"i": np.zeros((2, 2, 3), np.uint8)}
        logger.write_scalars(1, {"a": jnp.float32(2)})
        logger.write_images(2, images)
        logger.flush()
        logger.close()
        expected = [("scalars", 1, {"a": 2.0}), ("images", 2, images), ("flush",), ("close",)]
        assert [recorder.calls for recorder in recorders] == [expected, expected]
        assert type(recorders[0].calls[0][2]["a"]) is float  # Fetched once, for both.

    @pytest.mark.parametrize("failing", [0, 1])
    def test_one_that_fails_to_close_does_not_keep_the_others_open(self, failing):
        recorders = [_Recorder(fail=i == failing) for i in range(2)]
        with pytest.raises(OSError, match="disk full"):
            logging.MultiLogger(recorders).close()
        assert [recorder.calls for recorder in recorders] == [[("close",)]] * 2


class TestOpenLogger:
    def test_the_first_process_writes_events_and_lines(self, tmp_path):
        logger = logging.open_logger(tmp_path, enabled=True, start_step=5, warn=pytest.fail)
        logger.write_scalars(6, {"a": 1.0})
        logger.close()
        assert _read_scalars(tmp_path) == [(6, {"a": 1.0})]
        assert [line["step"] for line in _read_lines(tmp_path / "metrics.jsonl")] == [6]
        assert [e.step for e in _read_events(tmp_path) if e.HasField("session_log")] == [6]

    def test_the_others_touch_no_file(self, tmp_path):
        logger = logging.open_logger(tmp_path / "run", enabled=False, warn=pytest.fail)
        logger.write_scalars(6, {"a": 1.0})
        logger.write_images(6, {"a": np.zeros((2, 2, 3), np.uint8)})
        logger.flush()
        logger.close()
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_is_full_for_a_while_is_told_once_and_ends_nothing(
        self, tmp_path, full_disk
    ):
        said = []
        logger = logging.open_logger(tmp_path, enabled=True, warn=said.append)
        logger.write_scalars(1, {"a": 1.0})
        logger.flush()
        full_disk(64)
        for step in (2, 3):
            logger.write_scalars(step, {"a": 1.0})
            logger.flush()
        full_disk(None)
        logger.write_scalars(4, {"a": 1.0})
        logger.close()
        lines, events = sorted(said, key=lambda line: "TensorBoard" in line)
        assert "metrics.jsonl" in lines and "TensorBoard's file" in events
        assert all("cannot be written (File too large)" in line for line in said)
        steps = [line["step"] for line in _read_lines(tmp_path / "metrics.jsonl")]
        assert steps[0] == 1 and steps[-1] == 4


class TestInABucket:
    def test_what_was_flushed_is_there_and_a_resumed_run_goes_on(self, bucket, tmp_path):
        workdir, said = f"{bucket}/run", []
        killed = logging.open_logger(workdir, enabled=True, warn=said.append)
        killed.write_scalars(1, {"a": 1.0})
        killed.flush()
        killed.write_scalars(2, {"a": 2.0})
        assert [line["step"] for line in _lines_of(workdir, tmp_path / "killed")] == [1]

        resumed = logging.open_logger(workdir, enabled=True, start_step=1, warn=said.append)
        resumed.write_scalars(2, {"a": 3.0})
        resumed.write_images(2, {"b": np.zeros((2, 2, 3), np.uint8)})
        resumed.close()
        lines = _lines_of(workdir, tmp_path / "resumed")
        assert [(line["step"], line["scalars"]) for line in lines] == [(1, {"a": 1}), (2, {"a": 3})]
        events = list((tmp_path / "resumed").glob("events*"))
        assert len(events) == 2, "one for each start"
        assert not said

    def test_the_others_touch_no_file(self, bucket):
        logger = logging.open_logger(f"{bucket}/run", enabled=False, warn=print)
        logger.write_scalars(6, {"a": 1.0})
        logger.close()
        assert not storage.files_below(storage.to_path(bucket))

    def test_a_bucket_that_refuses_for_a_while_is_told_once_and_ends_nothing(
        self, bucket, tmp_path, monkeypatch
    ):
        said = []
        logger = logging.open_logger(f"{bucket}/run", enabled=True, warn=said.append)
        put = storage.put

        def refuse(source, target):
            raise OSError(5, "Slow Down", str(target))

        monkeypatch.setattr(storage, "put", refuse)
        for step in (1, 2):
            logger.write_scalars(step, {"a": 1.0})
            logger.flush()
        (line,) = said
        assert f"the log in {bucket}/run cannot be written (Slow Down)" in line
        monkeypatch.setattr(storage, "put", put)
        logger.close()
        assert [line["step"] for line in _lines_of(f"{bucket}/run", tmp_path / "run")] == [1, 2]


def _lines_of(workdir, folder):
    storage.fetch(storage.to_path(workdir), folder)
    return _read_lines(folder / "metrics.jsonl")


def test_a_logger_that_works_again_is_told_of_when_it_fails_again():
    said, full = [], [True, True, False, True, True]

    class Flaky(logging.NullLogger):
        def flush(self):
            if full.pop(0):
                raise OSError(28, "full")

    logger = logging.TolerantLogger(Flaky(), said.append, "the log")
    for step in range(5):
        logger.write_scalars(step, {})  # It waits in a buffer.
        logger.flush()
    assert len(said) == 2 and all("the log cannot be written (full)" in line for line in said)
