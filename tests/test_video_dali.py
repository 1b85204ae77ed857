"""The DALI backend shows the same frames as PyAV. On the CPU it decodes VP8, VP9 and MJPEG; on a GPU the rest."""

from __future__ import annotations

import builtins
import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_video_render import painted, read_number, render

from vzoom.video import VideoError, VideoReader, open_video

_REALTIME = {"g": "25", "deadline": "realtime", "cpu-used": "8"}
_OPEN_GOP = {"x264-params": "keyint=24:open-gop=1:bframes=3"}
CPU_FILES: dict[str, dict[str, Any]] = {
    "vp9.webm": {"codec": "libvpx-vp9", "options": _REALTIME},
    "vp8.webm": {"codec": "libvpx", "options": _REALTIME},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}
GPU_FILES: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"g": "30"}},
    "open_gop.ts": {"options": _OPEN_GOP},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=24:open-gop=1:log-level=none"}},
}


def _same(path: Path, dali: VideoReader) -> None:
    rng = random.Random(0)
    with open_video(path) as pyav, dali:
        assert dali.info == replace(pyav.info, backend="dali")
        for size in (1, 1, 3, 16, 40):
            times = sorted(rng.uniform(0, 4.0) for _ in range(size))  # some lie beyond the end
            theirs, ours = pyav.frames_at(times), dali.frames_at(times)
            assert ours.frame_indices == theirs.frame_indices
            assert ours.pts_seconds == theirs.pts_seconds
            assert ours.clamped == theirs.clamped
            assert [read_number(image) for image in ours.frames] == list(ours.frame_indices)
            difference = np.abs(ours.frames.astype(int) - theirs.frames)
            # Two converters of YUV: a level or so in the mean, more at a sharp edge between two colours.
            assert difference.mean() < 1.5
            assert np.quantile(difference, 0.99) <= 4


@pytest.mark.parametrize("name", CPU_FILES)
def test_same_frames_on_the_cpu(name: str, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI: pip install '.[dali]'")
    path = render(tmp_path / name, pts=range(100), **CPU_FILES[name])
    _same(path, open_video(path, backend="dali"))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", GPU_FILES)
def test_same_frames_on_the_gpu(name: str, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI: pip install '.[dali]'")
    path = render(tmp_path / name, pts=range(100), width=256, height=192, **GPU_FILES[name])
    _same(path, open_video(path, backend="dali"))


def test_a_codec_that_needs_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI: pip install '.[dali]'")
    from vzoom.video.dali import has_gpu

    if has_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(VideoError, match="h264 only on a GPU"):
        open_video(render(tmp_path / "a.mp4", pts=range(10)), backend="dali")


def test_without_dali_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name.startswith("nvidia"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(VideoError, match=r"pip install '.\[dali\]'"):
        open_video(render(tmp_path / "a.mp4", pts=range(3)), backend="dali")


@pytest.mark.parametrize(("weights", "space"), [((0.2126, 0.0722), 1), ((0.2627, 0.0593), 9)])
def test_the_colour_matrix_undoes_a_bt601_reading(weights: tuple[float, float], space: int) -> None:
    """A colour stored with `weights` and read as BT.601 comes back: both conversions written out, no matrix algebra."""
    from vzoom.video.dali import bt601_to

    red, blue = weights
    colour = np.array([150.0, 120.0, 100.0])
    y = red * colour[0] + (1 - red - blue) * colour[1] + blue * colour[2]
    cb, cr = (colour[2] - y) / (2 - 2 * blue), (colour[0] - y) / (2 - 2 * red)
    r, b = y + cr * (2 - 2 * 0.299), y + cb * (2 - 2 * 0.114)
    misread = np.array([r, (y - 0.299 * r - 0.114 * b) / 0.587, b])
    assert np.abs(misread - colour).max() > 1
    np.testing.assert_allclose(bt601_to(weights) @ misread, colour, atol=1e-3)


def test_painted_numbers_differ_by_more_than_the_tolerance() -> None:
    """The comparison above would see a wrong neighbour."""
    assert np.abs(painted(10).astype(int) - painted(11)).mean() > 1.5
