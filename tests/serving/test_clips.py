"""Clips made and read with PyAV."""

import dataclasses
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.serving.conftest import architecture_of, random_generator
from warp_translate import locks
from warp_translate.cli import translate_clips
from warp_translate.errors import UserError
from warp_translate.serving import clips, engine, output_plan
from warp_translate.serving.engine import Translated
from warp_translate.serving.smoothing import Smoother


@dataclasses.dataclass
class Negative:
    """A translator, which counts and may fail."""

    left: int = 1 << 30
    count: int = 0

    def translate(self, images, factor=None, *, with_maps=False):
        if self.count == self.left:
            raise RuntimeError("killed")
        self.count += 1
        return Translated(255 - images, None)


def make(path, times, height=48, width=64, *, sound=True, picture=None):
    """A clip of a gray ramp that brightens, and a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "10"})
        video.height, video.width, video.pix_fmt = height, width, "yuv444p"
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number, time in enumerate(times):
            ramp = np.linspace(40, 150, width) + 2 * number
            image = np.repeat(np.tile(ramp, (height, 1))[..., None], 3, -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image if picture is None else picture, "rgb24")
            frame.pts = time
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, 320 * len(times), 1024) if sound else ():
            tone = np.sin(np.arange(start, start + 1024) / 3)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(audio.encode(frame))
        if sound:
            container.mux(audio.encode(None))
    return path


def read(path):
    """Times after the first frame in seconds, images, and the packets and times of the audio."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times = [frame.time for frame in frames]
    images = [frame.to_ndarray(format="rgb24").astype(int) for frame in frames]
    with av.open(str(path)) as container:
        packets = list(container.demux(*container.streams.audio)) if container.streams.audio else []
        sound = [each for each in packets if each.dts is not None]
    begins = [float(each.pts * each.time_base) - times[0] for each in sound]
    return np.array(times) - times[0], np.stack(images), [bytes(each) for each in sound], begins


@pytest.mark.parametrize("suffix", clips.OUTPUT_SUFFIXES)
def test_pictures_times_and_sound_are_kept(suffix, tmp_path):
    given = [0, 1, 2, 5, 6, 9, 20]  # Of a variable rate.
    source = make(tmp_path / "a.mp4", given)
    made = tmp_path / f"b{suffix}"
    assert clips.translate_clip(Negative(), source, made, name="it") == len(given)
    times, images, sound, begins = read(source)
    new_times, new_images, new_sound, new_begins = read(made)
    # Matroska counts milliseconds.
    np.testing.assert_allclose(new_times, times, atol=1e-3)
    np.testing.assert_allclose(new_begins, begins, atol=2e-3)
    assert np.abs(new_images - (255 - images)).max() <= 6
    assert np.abs((new_images - (255 - images)).mean()) < 1
    assert new_sound == sound != []
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", made.name}


def test_colors_of_large_untagged_clips_and_odd_sizes_are_kept(tmp_path):
    """Untagged frames of 720 lines and more are BT.709, smaller ones BT.601."""
    for height, width in ((721, 31), (47, 31)):
        flat = np.full((height, width, 3), (200, 60, 90), np.uint8)
        source = make(tmp_path / "a.mp4", [0, 1], height, width, sound=False, picture=flat)
        clips.translate_clip(Negative(), source, tmp_path / "b.mp4", name="it")
        with av.open(str(source)) as container:
            first = next(container.decode(video=0))
            matrix = 1 if height > 700 else 5
            expected = 255 - first.to_ndarray(format="rgb24", src_colorspace=matrix).astype(int)
        with av.open(str(tmp_path / "b.mp4")) as container:
            frame = next(container.decode(video=0))
            assert (frame.height, frame.width, int(frame.colorspace)) == (height, width, matrix)
            found = frame.to_ndarray(format="rgb24", src_colorspace=matrix).astype(int)
        assert np.abs(found - expected).max() <= 3


def test_rotated_clips_are_written_upright(tmp_path):
    source = make(tmp_path / "a.mp4", [0, 1], sound=False)
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 44  # The matrix, of 16.16 numbers: a quarter turn.
    turn = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
    data[place : place + 36] = b"".join(each.to_bytes(4, "big", signed=True) for each in turn)
    source.write_bytes(data)
    clips.translate_clip(Negative(), source, tmp_path / "b.mp4", name="it")
    with av.open(str(source)) as container:
        frame = next(container.decode(video=0))
        assert abs(frame.rotation) == 90
    images = read(tmp_path / "b.mp4")[1]
    assert images.shape[1:3] == (64, 48)
    # A phone that was held upright: the left side of the stored picture is the upper one.
    assert images[0, 0].mean() > images[0, -1].mean() + 50  # In the negative.


@pytest.mark.parametrize("smooth", [False, True])
def test_a_killed_translation_resumes_to_the_same_file(smooth, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "_SEGMENT", 4)
    source = make(tmp_path / "a.mp4", range(14))
    if smooth:
        generator, _ = random_generator()
        architecture = architecture_of(generator)

    class Noisy(Negative):
        def translate(self, images, factor=None, *, with_maps=False):
            output = super().translate(images).output
            if not with_maps:
                return Translated(output, None)
            rng = np.random.default_rng(int(images.sum()))
            shape = images.shape[:3]
            change = images / np.float32(127.5) - 1
            maps = {"pretranslated": -change, "warped": change, "reduced": change}
            maps["mask"] = rng.random((*shape, 1), np.float32)
            maps["displacement"] = rng.standard_normal((*shape, 2), np.float32)
            return Translated(output, maps)

    def run(name, left=1 << 30, generator="it"):
        translator = Noisy(left)
        smoother = Smoother(architecture) if smooth else None
        clips.translate_clip(translator, source, tmp_path / name, name=generator, smoother=smoother)
        return translator.count

    assert run("whole.mp4") == 14
    with pytest.raises(RuntimeError, match="killed"):
        run("cut.mp4", left=11)
    assert not (tmp_path / "cut.mp4").exists()
    assert run("cut.mp4") == 14 - 8  # Two whole segments were kept.
    assert (tmp_path / "cut.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    with pytest.raises(RuntimeError, match="killed"):
        run("other.mp4", left=11)
    assert run("other.mp4", generator="another") == 14


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(UserError, match=r"bad\.mp4 cannot be read as a clip"):
        clips.translate_clip(Negative(), tmp_path / "bad.mp4", tmp_path / "b.mp4", name="it")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux([*audio.encode(frame), *audio.encode(None)])
    with pytest.raises(UserError, match=r"sound\.mp4 holds no video"):
        clips.translate_clip(Negative(), tmp_path / "sound.mp4", tmp_path / "b.mp4", name="it")


def test_outputs_are_planned_as_those_of_images(tmp_path):
    folder = tmp_path / "clips"
    for name in ("a.mov", "a.mkv", "b.webm", "sub/c.MP4", "notes.txt", "out/old.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()

    def targets(*inputs, output=folder / "out", recursive=False):
        given = [str(each) for each in inputs]
        if not translate_clips.are_clips(given, recursive=recursive):
            return None
        kind = translate_clips.KIND
        plan = output_plan.plan_outputs(given, str(output), recursive=recursive, kind=kind)
        return sorted(job.target.relative_to(folder).as_posix() for job in plan.jobs)

    assert targets(folder) == ["out/a.mkv.mp4", "out/a.mov.mp4", "out/b.mp4"]
    assert targets(folder, recursive=True)[-2:] == ["out/b.mp4", "out/sub/c.mp4"]
    assert targets(folder / "b.webm", output=folder / "x.mov") == ["x.mov"]
    (folder / "d.png").touch()
    assert targets(folder) is None and targets(folder / "d.png") is None
    (tmp_path / "e").mkdir()
    (tmp_path / "e/a.mov").touch()
    for inputs, output, message in (
        ([folder / "a.mov", folder / "d.png"], folder / "out", "is not a clip"),
        ([folder / "a.mov", folder / "a.mkv"], folder / "x.mp4", "is for one clip"),
        ([folder / "a.mov", tmp_path / "e/a.mov"], folder / "out", "would be written to"),
        ([folder / "a.mov"], folder / "x.webm", r"cannot write \.webm; use one of \.mp4"),
        ([folder / "missing.mp4"], folder / "out", "there is no such file"),
        ([folder / "a.mov"], folder / "a.mov", "would overwrite"),
        ([folder / "a.mov"], "-", "is for one image"),
    ):
        with pytest.raises(UserError, match=message):
            targets(*inputs, output=output)


def test_clips_of_a_folder_are_translated_once(exported, tmp_path, capsys):
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    make(folder / "a.mp4", range(3))
    (folder / "bad.mp4").write_bytes(b"nothing")

    def run():
        plan = output_plan.plan_outputs([str(folder)], str(out), kind=translate_clips.KIND)
        translate_clips.run(
            plan,
            lambda: engine.OnnxEngine(exported[0]),
            name="it",
            factor=2,
            smoother=lambda: Smoother(exported[0].architecture),
            progress_format="lines",
        )

    for printed in ("3 frames written to", "1 of 2 clips are done already"):
        with pytest.raises(UserError, match=r"bad\.mp4 cannot be read"):
            run()
        assert printed in capsys.readouterr().out
    assert read(out / "a.mp4")[1].shape == (3, 48, 64, 3)


def test_one_command_at_a_time_writes_an_output(tmp_path):
    source = make(tmp_path / "a.mp4", range(3))
    with (
        locks.held(tmp_path / ".b.mp4.parts/lock", "translates"),
        pytest.raises(UserError, match=r"another command translates to b\.mp4"),
    ):
        clips.translate_clip(Negative(), source, tmp_path / "b.mp4", name="it")


def test_a_damaged_segment_is_translated_again(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "_SEGMENT", 4)
    source = make(tmp_path / "a.mp4", range(10))
    with pytest.raises(RuntimeError, match="killed"):
        clips.translate_clip(Negative(9), source, tmp_path / "b.mp4", name="it")
    (tmp_path / ".b.mp4.parts/000001.npz").write_bytes(b"")  # As after a power failure.
    again = Negative()
    assert clips.translate_clip(again, source, tmp_path / "b.mp4", name="it") == 10
    assert again.count == 6


def test_a_failed_join_is_repeated_without_translating(tmp_path, monkeypatch):
    source = make(tmp_path / "a.mp4", range(5))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"to .*b\.mp4 .*No space"):
        patch.setattr(clips, "_join", full)
        clips.translate_clip(Negative(), source, tmp_path / "b.mp4", name="it")
    again = Negative()
    assert clips.translate_clip(again, source, tmp_path / "b.mp4", name="it") == 5
    assert again.count == 0


def test_pixels_keep_their_aspect_and_rgb_becomes_yuv(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video = container.add_stream("libx264rgb", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "rgb24"
        video.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80, np.uint8), "rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    clips.translate_clip(Negative(), tmp_path / "a.mkv", tmp_path / "b.mp4", name="it")
    with av.open(str(tmp_path / "b.mp4")) as container:
        video = container.streams.video[0]
        assert (video.sample_aspect_ratio, int(video.codec_context.colorspace)) == (
            Fraction(64, 45),
            5,
        )


def test_times_continue_where_clips_were_joined(tmp_path, monkeypatch):
    """Their clock may start again."""
    source = make(tmp_path / "a.mp4", range(6), sound=False)
    stream, _ = clips._describe(av, source)
    step = round(1 / (stream.rate * stream.time_base))

    class Container:
        def __init__(self):
            self.streams = self
            self.video = [self]

        def __enter__(self):
            return self

        def __exit__(self, *unused):
            pass

        def decode(self, video):
            for time in (0, step, 5 * step, 0, step, None):
                frame = av.VideoFrame(16, 16, "rgb24")
                frame.pts = time
                yield frame

    found = clips._decoded(
        SimpleNamespace(open=lambda name: Container(), video=av.video), source, stream, 0
    )
    assert [frame.time // step for frame in found] == [0, 1, 5, 6, 7, 8]


def test_audio_that_the_output_cannot_hold_is_refused_before_the_work(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        video = container.add_stream("mpeg4", rate=25, width=64, height=48)
        audio = container.add_stream("pcm_u8", rate=8000, layout="mono")
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80, np.uint8), "rgb24")
        container.mux([*video.encode(frame), *video.encode(None)])
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.uint8), "u8", "mono")
        sound.sample_rate = 8000
        container.mux([*audio.encode(sound), *audio.encode(None)])
    translator = Negative()
    with pytest.raises(UserError, match=r"a\.avi, pcm_u8, cannot be copied to \.mp4"):
        clips.translate_clip(translator, tmp_path / "a.avi", tmp_path / "b.mp4", name="it")
    assert translator.count == 0
    clips.translate_clip(translator, tmp_path / "a.avi", tmp_path / "b.mkv", name="it")
    assert read(tmp_path / "b.mkv")[2]
