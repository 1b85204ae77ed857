"""Every kind of file is decoded whole, and the reader must hand out the same pixels for the same times."""

from __future__ import annotations

import itertools
import random
import struct
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_video_render import decode_all, painted, read_number, render

from vzoom.video import VideoReader, VideoReadError, open_video
from vzoom.video.index import Keyframe
from vzoom.video.pyav import FrameDecoder, PyAVReader

_GAPS = random.Random(0)
_UNEVEN = list(itertools.accumulate((_GAPS.choice([1, 1, 2, 5, 17, 1]) for _ in range(99)), initial=0))
_VP9 = {"codec": "libvpx-vp9", "options": {"g": "25", "deadline": "realtime", "cpu-used": "8"}}
_OPEN_GOP = {"x264-params": "keyint=24:open-gop=1:bframes=3"}
_REFRESH = {"x264-params": "intra-refresh=1:keyint=25:bframes=0"}

# name -> how `render` makes it. Between them: both kinds of index, every seek rule, every way a time may be stored.
FILES: dict[str, dict[str, Any]] = {
    "cfr.mp4": {"pts": range(100), "options": {"g": "30"}},
    "one_gop.mp4": {"pts": range(150), "options": {"g": "999"}},
    "pyramid.mp4": {"pts": range(150), "options": {"x264-params": "keyint=60:bframes=8:b-adapt=0:ref=4"}},
    "open_gop.mp4": {"pts": range(100), "options": _OPEN_GOP},
    "open_gop.ts": {"pts": range(100), "options": _OPEN_GOP},
    "refresh.mp4": {"pts": range(100), "options": _REFRESH},
    "refresh.ts": {"pts": range(100), "options": _REFRESH},
    "offset.mp4": {"pts": range(45, 145), "options": {"g": "30"}},
    "cut.mp4": {
        "pts": range(-20, 80),
        "options": {"g": "50"},
        "container_options": {"avoid_negative_ts": "disabled", "use_editlist": "1"},
    },
    "uneven.mp4": {"pts": _UNEVEN, "options": {"g": "40"}},
    "uneven.mkv": {"pts": _UNEVEN, "options": {"g": "40"}},
    "fragments.mp4": {
        "pts": range(100), "options": {"g": "30"}, "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "odd_size.mp4": {"pts": range(40), "width": 131, "height": 97, "pix_fmt": "yuv444p"},
    "sound.mkv": {"pts": range(60), "options": {"g": "30"}, "audio": True},
    "ntsc.mkv": {"pts": range(90), "time_base": Fraction(1001, 30000), "rate": Fraction(30000, 1001)},
    "one.mkv": {"pts": [7]},
    "vp9.webm": {"pts": range(100), "width": 131, "height": 97, **_VP9},
    "vp8_hidden.webm": {
        "pts": range(100), "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "50", "cpu-used": "5", "deadline": "good"},
    },
    "mpeg4.avi": {"pts": range(60), "codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mjpeg.avi": {"pts": range(40), "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg2.mpg": {"pts": range(60), "codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "hevc.mp4": {
        "pts": range(75), "codec": "libx265", "options": {"x265-params": "keyint=24:open-gop=1:log-level=none"},
    },
    "hevc10.mkv": {
        "pts": range(75), "codec": "libx265", "pix_fmt": "yuv420p10le",
        "options": {"x265-params": "keyint=24:temporal-layers=3:log-level=none"},
    },
}  # fmt: skip

Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """name in FILES -> the rendered file, made once."""
    folder = tmp_path_factory.mktemp("videos")

    def made(name: str) -> Path:
        path = folder / name
        return path if path.exists() else render(path, **FILES[name])

    return made


def slack_seconds(video: VideoReader) -> float:
    """How far before its pts a frame counts as on display: half a tick, or nothing if a tick is a frame's period."""
    return 1e-6 if video.tick_seconds * video.info.fps > 0.4 else float(video.tick_seconds) / 2


def expected(truth: list[tuple[float, np.ndarray]], times: list[float], slack: float) -> list[int]:
    """Numbers of the frames on display, each once."""
    shown = [max(i for i, (at, _) in enumerate(truth) if at <= t + slack) for t in times]
    return list(dict.fromkeys(shown))


@pytest.mark.parametrize("name", FILES)
def test_frames_equal_those_of_decoding_everything(name: str, make: Make) -> None:
    path = make(name)
    truth = decode_all(path)
    rng = random.Random(name)
    with open_video(path) as video:
        end = video.info.duration_seconds
        slack = slack_seconds(video)
        for size in [1, 1, 1, 2, 2, 5, 5, 16, 16, 64]:
            start, stop = (0.0, end) if size == 64 else sorted((rng.uniform(0, end), rng.uniform(0, end)))
            times = sorted(rng.uniform(start, stop) * 0.999 for _ in range(size))
            clip = video.frames_at(times)
            assert list(clip.frame_indices) == expected(truth, times, slack)
            assert clip.pts_seconds == pytest.approx([truth[i][0] for i in clip.frame_indices], abs=1e-9)
            assert not any(clip.clamped)
            for image, index in zip(clip.frames, clip.frame_indices, strict=True):
                np.testing.assert_array_equal(image, truth[index][1])


@pytest.mark.parametrize("name", FILES)
def test_info(name: str, make: Make) -> None:
    truth = decode_all(make(name))
    spec = FILES[name]
    with open_video(make(name)) as video:
        info = video.info
        height, width = truth[0][1].shape[:2]
        assert (info.width, info.height) == (width, height)
        # The end is that of the last frame's display, whatever the sound does.
        assert truth[-1][0] < info.duration_seconds <= truth[-1][0] + 17.5 / 30
        if spec["pts"] is not _UNEVEN:
            # A file of one frame in whole milliseconds says 33 ms, and that is its rate.
            assert info.fps == pytest.approx(float(spec.get("rate", 30)), rel=1e-6)
            assert info.duration_seconds == pytest.approx(len(truth) / info.fps, abs=2 * float(video.tick_seconds))
        else:
            assert info.fps == pytest.approx(len(truth) / info.duration_seconds, rel=0.03)


def test_pixels_name_the_frame_that_was_asked_for(make: Make) -> None:
    with open_video(make("offset.mp4")) as video:
        clip = video.frames_at([k / 30 for k in (0, 1, 29, 30, 31, 99)])
    assert [read_number(image) for image in clip.frames] == [0, 1, 29, 30, 31, 99]
    with open_video(make("cut.mp4")) as video:  # an edit list hides 20 frames: t = 0 is the first one displayed
        clip = video.frames_at([0.0, 1.0])
    assert [read_number(image) for image in clip.frames] == [20, 50]
    assert clip.frame_indices == (0, 30)


def test_half_a_tick(make: Make) -> None:
    with open_video(make("cfr.mp4")) as video:
        tick = float(video.tick_seconds)
        assert video.frames_at([10 / 30 - 0.49 * tick]).frame_indices == (10,)
        assert video.frames_at([10 / 30 - 0.51 * tick]).frame_indices == (9,)


def test_repeats_come_once_in_the_order_asked_for(make: Make) -> None:
    with open_video(make("cfr.mp4")) as video:
        clip = video.frames_at([2.01, 0.5, 2.02, 0.51, 0.5])
    assert clip.frame_indices == (60, 15)
    assert clip.pts_seconds == pytest.approx((2.0, 0.5))


@pytest.mark.parametrize("name", ["cfr.mp4", "sound.mkv", "open_gop.ts", "mpeg4.avi", "hevc.mp4", "one.mkv"])
def test_beyond_the_end_is_the_last_frame_and_says_so(name: str, make: Make) -> None:
    last = len(decode_all(make(name))) - 1
    with open_video(make(name)) as video:
        end = video.info.duration_seconds
        before, at = video.frames_at([end - 1e-4]), video.frames_at([end])
        assert (before.frame_indices, before.clamped) == ((last,), (False,))
        assert (at.frame_indices, at.clamped) == ((last,), (True,))
        far = video.frames_at([0.0, end + 1000, 1e9])
        assert far.frame_indices == ((0, last) if last else (0,))
        assert far.clamped == ((False, True) if last else (True,))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.001])
def test_times_that_are_none(bad: float, make: Make) -> None:
    with open_video(make("one.mkv")) as video:
        with pytest.raises(ValueError, match="timestamp"):
            video.frames_at([0.0, bad])
        with pytest.raises(ValueError, match="at least one"):
            video.frames_at([])


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright: a quarter turn clockwise
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_rotation_tags_are_applied(
    matrix: tuple[int, int, int, int], turn: Callable[[np.ndarray], np.ndarray], make: Make, tmp_path: Path
) -> None:
    data = bytearray(make("cfr.mp4").read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of times, sizes and volume
    assert struct.unpack(">9i", data[at : at + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    stored = decode_all(make("cfr.mp4"))[40][1]
    with open_video(path) as video:
        image = video.frames_at([40 / 30]).frames[0]
        assert (video.info.height, video.info.width) == image.shape[:2]
    np.testing.assert_array_equal(image, turn(stored))


@pytest.mark.parametrize("space", [1, 5])
def test_colours_follow_the_matrix_that_the_stream_names(space: int, tmp_path: Path) -> None:
    import av

    colours = [(200, 90, 60), (70, 170, 90), (60, 70, 190)]
    picture = np.concatenate([np.full((96, 48, 3), colour, np.uint8) for colour in colours], axis=1)
    path = tmp_path / "colours.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 144, 96, "yuv420p"
        stream.codec_context.colorspace = space
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", dst_colorspace=space)
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        out.mux([*stream.encode(frame), *stream.encode(None)])
    with open_video(path) as video:
        image = video.frames_at([0.0]).frames[0]
    assert np.abs(image[48, [24, 72, 120]].astype(int) - np.array(colours)).max() <= 4


def test_going_on_does_not_start_again_from_the_keyframe(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[bool] = []
    start = PyAVReader._start

    def counted(self: PyAVReader, key: Keyframe, *, skip: bool) -> FrameDecoder:
        starts.append(key.is_first)
        return start(self, key, skip=skip)

    monkeypatch.setattr(PyAVReader, "_start", counted)
    with open_video(make("one_gop.mp4")) as video:
        assert [video.frames_at([t]).frame_indices for t in (1.0, 1.0, 1.1, 4.0)] == [(30,), (30,), (33,), (120,)]
        assert starts == [True, True]  # at the opening, and then
        assert video.frames_at([2.0]).frame_indices == (60,)
        assert starts == [True, True, True]


def test_frames_that_nothing_refers_to_are_skipped(make: Make) -> None:
    def decoded(name: str) -> bool:
        with open_video(make(name)) as video:
            assert isinstance(video, PyAVReader)
            video.frames_at([2.2])
            return video._decoder.skipped

    assert decoded("cfr.mp4")
    assert decoded("hevc.mp4")
    assert not decoded("vp9.webm")  # a VP9 packet does not say


def test_a_damaged_frame_gives_the_good_one_before_it(make: Make, tmp_path: Path) -> None:
    import av

    # The packet of a frame in the middle of a group becomes noise: nothing can be decoded from it.
    path = tmp_path / "hole.mkv"
    with av.open(str(make("vp9.webm"))) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                if number == 60:
                    noise = av.Packet(b"\xff" * 50)
                    noise.pts, noise.dts, noise.time_base = packet.pts, packet.dts, packet.time_base
                    packet = noise
                packet.stream = stream
                out.mux(packet)
    with open_video(path) as video:
        clip = video.frames_at([61 * 0.0333])
        before = video.frames_at([58 * 0.0333])
    assert (before.damaged, clip.damaged) == ((False,), (True,))
    assert clip.frame_indices[0] <= 60
    assert read_number(clip.frames[0]) == clip.frame_indices[0]


def test_a_damaged_frame_among_skipped_ones(tmp_path: Path) -> None:
    import av

    # In P0 B1 B2 B3 P4 nothing refers to a B. Asked for B2, which is damaged, the reader has skipped B1: it must go
    # back for it.
    whole = render(
        tmp_path / "whole.mp4", pts=range(60), options={"x264-params": "bframes=3:b-adapt=0:b-pyramid=none:keyint=60"}
    )
    path = tmp_path / "hole.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                if packet.pts == 22 * 512:
                    noise = av.Packet(bytes(packet)[:5] + b"\xff" * 40)
                    noise.pts, noise.dts, noise.time_base = packet.pts, packet.dts, packet.time_base
                    packet = noise
                packet.stream = stream
                out.mux(packet)
    with pytest.raises(av.error.InvalidDataError):
        decode_all(path)
    with open_video(path) as video:
        clip = video.frames_at([22.2 / 30])
    assert (read_number(clip.frames[0]), clip.frame_indices, clip.clamped) == (21, (21,), (False,))


def test_a_recording_that_starts_in_an_open_group(make: Make, tmp_path: Path) -> None:
    import av

    # The first keyframe's leading pictures cannot be decoded: the keyframe is frame 0 and t = 0.
    path = tmp_path / "joined_late.ts"
    keys = 0
    with av.open(str(make("open_gop.ts"))) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            keys += packet.is_keyframe
            if packet.size and keys > 1:
                packet.stream = stream
                out.mux(packet)
    truth = decode_all(path)
    with open_video(path) as video:
        clip = video.frames_at([k / 30 for k in range(len(truth))])
    assert clip.frame_indices == tuple(range(len(truth)))
    assert [read_number(image) for image in clip.frames] == [read_number(image) for _, image in truth]


def test_a_file_cut_off_in_the_middle(tmp_path: Path) -> None:
    whole = render(
        tmp_path / "whole.mp4", pts=range(400), options={"g": "20"}, container_options={"movflags": "faststart"}
    )
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with open_video(path) as video:
        assert 150 / 30 < video.info.duration_seconds < 300 / 30  # not the 400 / 30 of the header
        clip = video.frames_at([1.0, 2.0, 9.9, 11.0, 13.0])
        assert clip.frame_indices[-1] == round(video.info.duration_seconds * 30) - 1
        assert [read_number(image) for image in clip.frames] == list(clip.frame_indices)
        assert clip.frame_indices[:2] == (30, 60)
        assert 150 < clip.frame_indices[-1] < 300
        assert clip.clamped == (False, False, True)
        # And what lies before the cut is still there afterwards.
        assert video.frames_at([0.5]).frame_indices == (15,)


def test_budgets_end_a_request(make: Make) -> None:
    with pytest.raises(VideoReadError, match="max_packets"):
        open_video(make("sound.mkv"), max_packets=20)
    with open_video(make("one_gop.mp4"), max_packets=90) as video:
        assert video.frames_at([0.5]).frame_indices == (15,)
        with pytest.raises(VideoReadError, match="gave up after 90 packets"):
            video.frames_at([4.5])
    with open_video(make("one_gop.mp4"), deadline_seconds=0.2) as video:
        time.sleep(0.25)  # time between calls is not the call's
        assert video.frames_at([0.1]).frame_indices == (3,)
    with pytest.raises(VideoReadError, match="deadline_seconds"):
        open_video(make("one_gop.mp4"), deadline_seconds=1e-6)


def test_threads_may_share_a_reader(make: Make) -> None:
    wrong: list[tuple[int, tuple[int, ...]]] = []
    with open_video(make("cfr.mp4")) as video:

        def ask(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(15):
                number = rng.randrange(100)
                clip = video.frames_at([number / 30])
                if clip.frame_indices != (number,) or read_number(clip.frames[0]) != number:
                    wrong.append((number, clip.frame_indices))

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_more_decoding_threads_change_nothing(make: Make) -> None:
    times = [0.1, 0.9, 1.0, 1.7, 2.9, 3.3]
    with open_video(make("open_gop.mp4")) as one, open_video(make("open_gop.mp4"), num_threads=2) as two:
        np.testing.assert_array_equal(one.frames_at(times).frames, two.frames_at(times).frames)


def test_a_closed_reader_says_so(make: Make) -> None:
    video = open_video(make("one.mkv"))
    video.close()
    video.close()
    with pytest.raises(VideoReadError, match="closed"):
        video.frames_at([0.0])


def test_a_stream_that_changes_size_keeps_the_size_of_its_first_frame(make: Make, tmp_path: Path) -> None:
    small = render(tmp_path / "small.ts", pts=range(100, 140), width=96, height=64)
    path = tmp_path / "both.ts"
    path.write_bytes(make("open_gop.ts").read_bytes() + small.read_bytes())
    with open_video(path) as video:
        clip = video.frames_at([1.0, 4.0])
    assert clip.frames.shape[1:] == painted(0).shape
