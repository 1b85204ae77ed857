"""The keyframe glance shows what the encoder made a keyframe, under its true time, and decodes next to nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from test_video_render import read_number, render

from vzoom.config import ZoomConfig
from vzoom.video import ClipCache, FrameSource, PatchSpec, VideoReadError, look, open_video

_OPEN_GOP = {"x264-params": "keyint=24:min-keyint=24:open-gop=1:bframes=3:scenecut=0"}
FILES: dict[str, dict[str, Any]] = {
    "plain.mp4": {"options": {"g": "30", "sc_threshold": "0"}},
    "plain.mkv": {"options": {"g": "30", "sc_threshold": "0"}},
    "open.mp4": {"options": _OPEN_GOP},
    "open.mkv": {"options": _OPEN_GOP},
    "open.ts": {"options": _OPEN_GOP},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "25", "deadline": "realtime", "cpu-used": "8"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12"}},
    "late.mp4": {"pts": range(300, 420), "options": {"g": "30", "sc_threshold": "0"}},
    "vfr.mp4": {"pts": list(itertools.accumulate([0, *([1, 1, 9] * 39)])), "options": {"g": "10", "sc_threshold": "0"}},
}


def _keyframes(path: Path) -> list[float]:
    """When each keyframe is displayed, in seconds from the first frame, as libav says while it decodes all."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    first = min(f.time for f in frames)
    return [f.time - first for f in frames if f.key_frame]


@pytest.mark.parametrize("name", FILES)
def test_the_keyframe_at_or_before_each_time(name: str, tmp_path: Path) -> None:
    path = render(tmp_path / name, **({"pts": range(120)} | FILES[name]))
    keys = _keyframes(path)
    assert len(keys) > 3
    with open_video(path) as video:
        times = np.linspace(0, video.info.duration_seconds - 0.01, 37).tolist()
        wanted = sorted({max(k for k in keys if k <= t + 1e-4) for t in times})
        clip = video.keyframes_at(times)
        assert clip.pts_seconds == pytest.approx(wanted, abs=1e-3)
        assert [read_number(image) for image in clip.frames] == list(clip.frame_indices)
        assert not any(clip.clamped)
        # The same frames as those that are on display then, and whatever was read before or after.
        exact = video.frames_at(clip.pts_seconds)
        assert exact.frame_indices == clip.frame_indices
        np.testing.assert_array_equal(exact.frames, clip.frames)
        again = video.keyframes_at(times[::-1])
        assert again.frame_indices == clip.frame_indices[::-1]
        with pytest.raises(ValueError, match="timestamp"):
            video.keyframes_at([-1.0])
        with pytest.raises(ValueError, match="at least one"):
            video.keyframes_at([])
    with pytest.raises(VideoReadError, match="closed"):
        video.keyframes_at([0.0])


def test_little_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vzoom.video.pyav import FrameDecoder

    path = render(tmp_path / "a.mp4", pts=range(500), options={"g": "250", "sc_threshold": "0"})
    decoded: list[object] = []
    take = FrameDecoder._take
    monkeypatch.setattr(FrameDecoder, "_take", lambda self, packet: (decoded.append(packet), take(self, packet))[1])
    with open_video(path) as video:
        decoded.clear()
        assert video.keyframes_at([7.0, 15.0]).frame_indices == (0, 250)
        assert len(decoded) <= 12  # two keyframes, and what the decoder holds back
        decoded.clear()
        video.frames_at([7.0])
        assert len(decoded) > 100


def test_a_cache_decodes_a_keyframe_once(tmp_path: Path) -> None:
    path = render(tmp_path / "a.mp4", pts=range(120), options={"g": "30", "sc_threshold": "0"})
    cache, config = ClipCache(), ZoomConfig(max_pixels=3136, glance="keyframe")
    video: FrameSource = cache.open(path, config=config, spec=PatchSpec())
    clip = look(video, [0.5, 1.5, 2.5], keyframes=True)
    assert clip.pts_seconds == (0.0, 1.0, 2.0)
    assert (cache.stats().misses, cache.stats().hits) == (3, 0)
    assert look(video, [0.7, 1.7, 2.7], keyframes=True).frame_indices == clip.frame_indices
    assert video.frames_at([1.0]).frame_indices == (30,)  # the same frame, asked for exactly
    assert (cache.stats().misses, cache.stats().hits) == (3, 4)
