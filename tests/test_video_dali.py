"""The DALI backend shows the same frames as PyAV. On the CPU it decodes VP8, VP9 and MJPEG; on a GPU the rest."""

from __future__ import annotations

import ctypes
import importlib
import io
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from test_video_render import painted, read_number, render

import vzoom
from vzoom.config import VideoOptions, ZoomConfig
from vzoom.models.encode import digests
from vzoom.video import (
    ClipCache,
    PatchSpec,
    VideoError,
    VideoReader,
    VideoReadError,
    dali,
    frames_to_patches,
    gpu_decoder,
    look,
    open_video,
)
from vzoom.video.patches import resize_frames

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
            images = ours.images
            assert [read_number(image) for image in images] == list(ours.frame_indices)
            difference = np.abs(images.astype(int) - theirs.images)
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
def test_same_frames_on_the_gpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI: pip install '.[dali]'")
    path = render(tmp_path / name, pts=range(100), width=256, height=192, **GPU_FILES[name])
    monkeypatch.setattr(dali, "GPU_NEEDS_IDR", False)  # open groups are what this is about
    _same(path, open_video(path, backend="dali", device="cuda:0"))


def test_a_codec_that_needs_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI: pip install '.[dali]'")
    with pytest.raises(VideoError, match="h264 only on a GPU, and the model is on the CPU; use backend pyav"):
        open_video(render(tmp_path / "a.mp4", pts=range(10)), backend="dali")


def test_without_dali_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> ModuleType:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(gpu_decoder.importlib, "import_module", without)
    path = render(tmp_path / "a.mp4", pts=range(3))
    with pytest.raises(VideoError, match=r"pip install '.\[dali\]'"):
        open_video(path, backend="dali")
    gpu_decoder.why_no_decoder.cache_clear()
    with open_video(path, device="cuda:0") as video:  # "auto"
        assert video.info.backend == "pyav"
        [said] = video.info.notes
        assert said.startswith("decoded on the CPU: nvidia-dali-cuda130 is not installed")
    gpu_decoder.why_no_decoder.cache_clear()


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


# ---------------------------------------------------------------- a stand-in for a GPU and its decoder


class _OnGpu:
    """What DALI hands out: memory that only DLPack leads to."""

    def __init__(self, frames: torch.Tensor) -> None:
        self._frames = frames

    def __dlpack__(self, stream: int | None = None, **how: Any) -> Any:
        return self._frames.__dlpack__()

    def __dlpack_device__(self) -> tuple[Any, int]:
        return self._frames.__dlpack_device__()


class _Dynamic:
    """DALI's dynamic mode as far as we use it. It decodes slices with libav, and notes what it was asked."""

    def __init__(self) -> None:
        self.slices: list[list[bytes]] = []
        self.contexts: list[dict[str, Any]] = []
        self.decoders = SimpleNamespace(video=self._video)

    def EvalContext(self, **settings: Any) -> Any:
        self.contexts.append(settings)
        return nullcontext()

    def batch(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return arrays

    def _video(self, data: list[np.ndarray], *, frames: list[np.ndarray], device: str) -> Any:
        assert device == "gpu"
        self.slices.append([bytes(one) for one in data])
        clips = []
        for one, numbers in zip(data, frames, strict=True):
            with av.open(io.BytesIO(bytes(one))) as container:
                decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            clips.append(_OnGpu(torch.from_numpy(np.stack([decoded[n] for n in numbers]))))
        return SimpleNamespace(tensors=clips)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> _Dynamic:
    """A GPU "cuda:1" whose decoder takes what NVDEC of an H200 takes. Tensors on it are CPU tensors."""
    dynamic = _Dynamic()
    caps = {"is_supported": 1, "num_decoders": 7, "max_macroblocks": 65536, "min_width": 48, "min_height": 48}

    @contextmanager
    def stream(device: str) -> Iterator[dict[str, Any]]:
        assert device == "cuda:1"
        yield {"device_id": 1, "cuda_stream": 42}

    def answer(device: str, codec: str, depth: int) -> gpu_decoder.DecoderCaps:
        return gpu_decoder.DecoderCaps(**(caps | {"max_width": 4096, "max_height": 4096}))

    monkeypatch.setattr(dali, "load_dali", lambda: dynamic)
    monkeypatch.setattr(dali, "gpu_stream", stream)
    monkeypatch.setattr(gpu_decoder, "why_no_decoder", lambda device: None)
    monkeypatch.setattr(gpu_decoder, "decoder_caps", answer)
    return dynamic


def forbid_copies(patch: pytest.MonkeyPatch) -> None:
    """Every way from pixels in a tensor to this machine's memory raises."""

    def guarded(name: str) -> Any:
        real = getattr(torch.Tensor, name)

        def way(self: torch.Tensor, *args: Any, **how: Any) -> Any:
            assert self.dtype != torch.uint8, f"{name} copies pixels to the host"
            return real(self, *args, **how)

        return way

    for name in ("cpu", "numpy", "tolist", "item", "__array__"):
        patch.setattr(torch.Tensor, name, guarded(name))


def test_frames_stay_on_the_gpu_from_the_decoder_to_the_patches(
    tmp_path: Path, gpu: _Dynamic, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = render(tmp_path / "a.mp4", pts=range(120), options={"g": "30", "bf": "2", "sc_threshold": "0"})
    config, spec = ZoomConfig(max_pixels=12544), PatchSpec()
    cache = ClipCache(options=VideoOptions(device="cuda:1"))
    with open_video(path) as reader:
        wanted, _ = frames_to_patches(reader.frames_at([0.2, 1.5, 3.9]).frames, config=config, spec=spec)
    forbid_copies(monkeypatch)
    video = cache.open(path, config=config, spec=spec)
    clip = video.frames_at([0.2, 1.5, 3.9])
    assert isinstance(clip.frames, torch.Tensor)
    assert clip.frame_indices == (6, 45, 117)
    assert cache.stats().num_bytes == clip.frames.nbytes  # at the model's size, on the GPU
    patches, _ = frames_to_patches(clip.frames, config=config, spec=spec)
    assert video.frames_at([1.5]).frame_indices == (45,)
    assert len(gpu.slices) == 1  # one batch, a slice for each group; the second time from the cache
    assert len(gpu.slices[0]) == 3
    assert gpu.contexts == [{"num_threads": 1, "device_id": 1, "cuda_stream": 42}]  # the model's GPU and stream
    assert torch.equal(patches, wanted)


def test_a_question_is_answered_without_a_frame_on_the_host(tmp_path: Path, gpu: _Dynamic) -> None:
    path = render(tmp_path / "a.mp4", pts=range(240), options={"g": "30", "bf": "2", "sc_threshold": "0"})
    wanted = vzoom.load(device="cpu").ask(path, "What is shown?")
    zoomer = vzoom.load(device="cpu")
    zoomer.clip_cache.options = replace(zoomer.clip_cache.options, device="cuda:1")
    with pytest.MonkeyPatch.context() as patch:
        forbid_copies(patch)
        found = zoomer.ask(path, "What is shown?")
        again = zoomer.ask(path, "What is shown?")
    assert found.trajectory.video.backend == "dali"
    assert isinstance(found.glance.frames, torch.Tensor)
    assert found.trajectory.ids == again.trajectory.ids == wanted.trajectory.ids
    assert zoomer.feature_cache.stats().hits >= len(found.glance)  # found again by their pixels
    found.report.save(tmp_path / "a.html")  # a report copies them
    assert "data:image" in (tmp_path / "a.html").read_text()


def test_digests_tell_frames_apart_where_they_are() -> None:
    frames = np.random.default_rng(0).integers(0, 256, size=(3, 28, 28, 3)).astype(np.uint8)
    frames[2] = frames[0]
    other = torch.from_numpy(frames).clone()
    other[1, 0, 0, 0] ^= 128  # one bit
    first, second, third = digests(torch.from_numpy(frames))
    assert first == third != second
    assert digests(other)[0] == first
    assert digests(other)[1] != second


@pytest.mark.parametrize("rule", ["direct", "videozoomer"])
@pytest.mark.parametrize("size", [(96, 128), (90, 333), (28, 56), (700, 300)])
def test_a_tensor_is_resized_to_the_bytes_of_an_array(size: tuple[int, int], rule: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, size=(2, *size, 3)).astype(np.uint8)
    config = ZoomConfig.from_dict({"max_pixels": 12544, "resize": rule}, "a test")
    spec = PatchSpec()
    ours = resize_frames(torch.from_numpy(frames), config=config, spec=spec)
    assert torch.equal(ours, torch.from_numpy(resize_frames(frames, config=config, spec=spec)))


def test_a_gpu_glance_is_one_batch_of_slices_of_one_keyframe(tmp_path: Path, gpu: _Dynamic) -> None:
    path = render(tmp_path / "a.mp4", pts=range(240), options={"g": "30", "bf": "2", "sc_threshold": "0"})
    with open_video(path, device="cuda:1") as video:
        clip = look(video, [0.5 + i for i in range(8)], keyframes=True)
        assert (video.info.backend, video.info.notes) == ("dali", ())
    assert clip.frame_indices == tuple(range(0, 240, 30))
    assert [read_number(image) for image in clip.images] == list(clip.frame_indices)
    [slices] = gpu.slices
    assert len(slices) == 8
    for one in slices:
        with av.open(io.BytesIO(one)) as container:
            assert len([packet for packet in container.demux(video=0) if packet.size]) == 1


@pytest.mark.parametrize("name", GPU_FILES)
def test_the_stand_in_shows_the_same_frames(
    name: str, tmp_path: Path, gpu: _Dynamic, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = render(tmp_path / name, pts=range(100), width=256, height=192, **GPU_FILES[name])
    monkeypatch.setattr(dali, "GPU_NEEDS_IDR", False)
    _same(path, open_video(path, backend="dali", device="cuda:1"))


FALLBACKS: dict[str, tuple[dict[str, Any], str]] = {
    "open_gop.ts": ({"options": _OPEN_GOP}, "its keyframes are not IDR frames"),
    "open_gop.mp4": ({"options": _OPEN_GOP}, "its keyframes are not IDR frames"),
    "cra.mp4": (GPU_FILES["hevc.mp4"], "its keyframes are not IDR frames"),
    "deep.mp4": ({"pix_fmt": "yuv420p10le"}, "does not decode h264 with pixels of yuv420p10le"),
    "422.mp4": ({"pix_fmt": "yuv422p"}, "does not decode h264 with pixels of yuv422p"),
    "444.mp4": ({"pix_fmt": "yuv444p"}, "does not decode h264 with pixels of yuv444p"),
    "ffv1.mkv": ({"codec": "ffv1"}, "the GPU does not decode ffv1"),
    "small.mp4": ({"width": 40, "height": 32}, "40x32 is too small for the GPU's decoder (48x48 at least)"),
    "wide.mp4": ({"width": 4112, "height": 16}, "4112x16 is too"),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_what_the_gpu_cannot_decode_is_read_on_the_cpu_and_said(name: str, tmp_path: Path, gpu: _Dynamic) -> None:
    settings, reason = FALLBACKS[name]
    path = render(tmp_path / name, pts=range(100), **settings)
    with open_video(path, device="cuda:1") as video, open_video(path) as plain:
        assert video.info.backend == video.backend == "pyav"
        [said] = [note for note in video.info.notes if note.startswith("decoded on the CPU: ")]
        assert reason in said
        assert isinstance(video.frames_at([1.0]).frames, np.ndarray)
        assert np.array_equal(video.frames_at([1.0]).images, plain.frames_at([1.0]).images)
    assert not gpu.slices
    with pytest.raises(VideoError, match="use backend pyav"):
        open_video(path, device="cuda:1", backend="dali")


def test_closed_groups_are_told_from_open_ones(tmp_path: Path) -> None:
    closed = render(tmp_path / "a.ts", pts=range(60), options={"g": "20", "sc_threshold": "0"})
    hevc = render(
        tmp_path / "b.mkv",
        pts=range(60),
        codec="libx265",
        options={"x265-params": "keyint=20:open-gop=0:log-level=none"},
    )
    for path in (closed, hevc):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if packet.is_keyframe:
                    codec = stream.codec_context
                    assert gpu_decoder.is_closed(bytes(packet), codec.name, codec.extradata)


def test_why_there_is_no_decoder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI: pip install '.[dali]'")

    def why() -> str | None:
        gpu_decoder.why_no_decoder.cache_clear()
        return gpu_decoder.why_no_decoder("cuda:0")

    if not torch.cuda.is_available():
        assert "capability 'video'" in str(why())  # no driver here
    backend = SimpleNamespace(GetCUDADeviceCount=lambda: 0)
    real = importlib.import_module
    monkeypatch.setattr(gpu_decoder, "_driver_library", lambda: None)
    monkeypatch.setattr(
        gpu_decoder.importlib, "import_module", lambda name: backend if name == "nvidia.dali.backend" else real(name)
    )
    assert why() == "DALI sees no GPU"
    backend.GetCUDADeviceCount = lambda: 1
    monkeypatch.setattr(gpu_decoder, "decoder_caps", lambda *of: gpu_decoder.DecoderCaps(num_decoders=0))
    assert "MIG" in str(why())
    monkeypatch.setattr(gpu_decoder, "decoder_caps", lambda *of: gpu_decoder.DecoderCaps(num_decoders=1))
    assert why() is None
    gpu_decoder.why_no_decoder.cache_clear()


def test_the_layout_of_what_the_driver_is_asked() -> None:
    """Offsets of CUVIDDECODECAPS in cuviddec.h, as a C compiler lays it out."""
    caps = gpu_decoder.DecoderCaps
    assert (caps.is_supported.offset, caps.num_decoders.offset, caps.output_formats.offset) == (24, 25, 26)
    assert (caps.max_width.offset, caps.max_macroblocks.offset, caps.min_width.offset) == (28, 36, 40)
    assert ctypes.sizeof(caps) == 88


def test_a_decoder_that_fails_is_a_read_error(tmp_path: Path, gpu: _Dynamic, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*of: Any, **how: Any) -> Any:
        raise RuntimeError("NVDEC: out of sessions\nand much more")

    path = render(tmp_path / "a.mp4", pts=range(60), options={"g": "30", "sc_threshold": "0"})
    with open_video(path, device="cuda:1") as video:
        gpu.decoders.video = fail
        with pytest.raises(VideoReadError, match=r"could not decode it on cuda:1 \(NVDEC: out of sessions\)"):
            video.frames_at([1.0])


@pytest.mark.slow  # renders an hour
def test_minute_50_costs_what_minute_0_costs(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI: pip install '.[dali]'")
    path = render(
        tmp_path / "hour.webm",
        pts=range(3600 * 5),
        time_base=Fraction(1, 5),
        rate=5,
        codec="libvpx",
        options=_REALTIME | {"cpu-used": "16"},
        width=96,
        height=64,
    )
    with open_video(path, backend="dali") as video:
        costs: dict[float, list[float]] = {5.0: [], 3000.0: []}
        for _ in range(7):
            for start, spent in costs.items():
                began = time.process_time()
                clip = video.frames_at([start + i / 5 for i in range(10)])
                spent.append(time.process_time() - began)
                assert [read_number(image) for image in clip.images] == [i % 4096 for i in clip.frame_indices]
    assert np.median(costs[3000.0]) <= 2 * np.median(costs[5.0])
