"""Whether a GPU's own video decoder (NVDEC) can show a stream as it should look, and if not, why.

It is found out when a video is opened, not at the first frame: DALI would raise then, or show something else.
"""

from __future__ import annotations

import ctypes
import importlib
from functools import lru_cache
from typing import Any

from av.video.stream import VideoStream

from ..config import missing_extra
from .base import VideoError
from .picture import PictureRules

DALI_PACKAGE = "nvidia-dali-cuda130"

# cudaVideoCodec, and the depths in bits that DALI's decoder takes on a GPU; all are 4:2:0.
NVDEC_CODECS = {"mpeg4": 2, "h264": 4, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
_PIXEL_FORMATS = {"yuv420p": 8, "yuv420p10le": 10}
_DEEP_CODECS = frozenset({"hevc", "vp9", "av1"})
_CHROMA_420 = 1
# What DALI decodes on the CPU.
DALI_CODECS = frozenset({"vp8", "vp9", "mjpeg"})
_KNOWN_MATRICES = frozenset({1, 2, 5, 6, 9})  # AVColorSpace: BT.709, not named, BT.601 (two names), BT.2020


def load_dali() -> Any:
    """DALI's dynamic mode. VideoError, naming the extra, if it is not installed."""
    try:
        return importlib.import_module("nvidia.dali.experimental.dynamic")
    except ImportError as error:
        raise VideoError(f"backend dali: {missing_extra(DALI_PACKAGE, 'dali')} ({error})") from error


def why_not_cpu(stream: VideoStream, rules: PictureRules) -> str | None:
    """Why DALI cannot show a stream on the CPU; None if it can."""
    codec = stream.codec_context.codec.canonical_name
    if codec not in DALI_CODECS:
        return f"DALI decodes {codec} only on a GPU, and the model is on the CPU"
    return _why_not_shown(rules)


def why_not_gpu(stream: VideoStream, rules: PictureRules, *, device: str) -> str | None:
    """Why a GPU's decoder cannot show a stream; None if it can.

    Args:
        stream: the stream.
        rules: how its pictures should look.
        device: the GPU, such as "cuda:0".
    """
    codec, pixels = stream.codec_context.codec.canonical_name, rules.pixel_format
    if (machine := why_no_decoder(device)) is not None:
        return machine
    if codec not in NVDEC_CODECS:
        return f"the GPU does not decode {codec}"
    depth = _PIXEL_FORMATS.get(pixels)
    if depth is None or (depth > 8 and codec not in _DEEP_CODECS):
        return f"the GPU does not decode {codec} with pixels of {pixels}"
    if (shown := _why_not_shown(rules)) is not None:
        return shown
    if rules.full_range:
        return "its colours have the full range, which was not checked on a GPU yet"
    return decoder_caps(device, codec, depth).refuses(*rules.stored_size)


def _why_not_shown(rules: PictureRules) -> str | None:
    if rules.special:
        return f"DALI cannot show it as it should look ({rules.special[0]})"
    if rules.colorspace not in _KNOWN_MATRICES:
        return f"DALI does not know its colour space, {rules.colorspace}"
    return None


@lru_cache(maxsize=16)
def why_no_decoder(device: str) -> str | None:
    """Why this process cannot decode on a GPU at all; None if it can."""
    try:
        load_dali()
    except VideoError as error:
        return str(error).removeprefix("backend dali: ")
    try:
        _driver_library()
    except OSError:
        return (
            "the driver's libnvcuvid.so.1 is not here; a container needs the capability 'video' "
            "(NVIDIA_DRIVER_CAPABILITIES=compute,utility,video)"
        )
    backend: Any = importlib.import_module("nvidia.dali.backend")
    if int(backend.GetCUDADeviceCount()) == 0:
        return "DALI sees no GPU"
    if decoder_caps(device, "h264", 8).num_decoders == 0:
        return "this GPU, or this slice of it (MIG), has no video decoder"
    return None


class DecoderCaps(ctypes.Structure):
    """CUVIDDECODECAPS of the Video Codec SDK: what is asked, and the driver's answer."""

    _fields_ = [
        ("codec", ctypes.c_int),
        ("chroma", ctypes.c_int),
        ("bits_above_8", ctypes.c_uint),
        ("reserved1", ctypes.c_uint * 3),
        ("is_supported", ctypes.c_ubyte),
        ("num_decoders", ctypes.c_ubyte),
        ("output_formats", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_macroblocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("histogram", ctypes.c_ubyte * 4),
        ("reserved3", ctypes.c_uint * 10),
    ]

    def refuses(self, width: int, height: int) -> str | None:
        """Why it does not decode frames of a size; None if it does."""
        if not self.is_supported:
            return "this GPU's decoder does not know the codec at this depth"
        if width < self.min_width or height < self.min_height:
            return f"{width}x{height} is too small for the GPU's decoder ({self.min_width}x{self.min_height} at least)"
        too_many = width * height // 256 > self.max_macroblocks
        if width > self.max_width or height > self.max_height or too_many:
            return f"{width}x{height} is too large for the GPU's decoder ({self.max_width}x{self.max_height} at most)"
        return None


@lru_cache(maxsize=64)
def decoder_caps(device: str, codec: str, depth: int) -> DecoderCaps:
    """What the decoder of a GPU says of a codec at a depth in bits, in 4:2:0.

    Raises:
        VideoError: the driver does not answer.
    """
    import torch

    caps = DecoderCaps(codec=NVDEC_CODECS[codec], chroma=_CHROMA_420, bits_above_8=depth - 8)
    with torch.cuda.device(device):
        torch.zeros(1, device=device)  # the driver answers for the context of this thread
        status = _driver_library().cuvidGetDecoderCaps(ctypes.byref(caps))
    if status != 0:
        raise VideoError(f"backend dali: the driver does not say what its decoder can (CUDA error {status})")
    return caps


def _driver_library() -> ctypes.CDLL:
    return ctypes.CDLL("libnvcuvid.so.1")


def is_closed(packet: bytes, codec: str, extradata: bytes | None) -> bool:
    """Whether nothing after a keyframe refers to anything before it (IDR). Only H.264 and HEVC have others.

    Args:
        packet: the keyframe's, as the container has it.
        codec: libav's name of the codec.
        extradata: of the stream.
    """
    if codec not in ("h264", "hevc"):
        return True
    for unit in _units(packet, codec, extradata or b""):
        kind = unit & 0x1F if codec == "h264" else unit >> 1 & 0x3F
        if codec == "h264" and kind in (1, 5):
            return kind == 5
        if codec == "hevc" and kind < 32:
            return kind in (19, 20)
    return False


def _units(packet: bytes, codec: str, extradata: bytes) -> list[int]:
    """The first byte of each NAL unit: after its length in mp4 and Matroska, after a start code elsewhere."""
    found: list[int] = []
    if extradata[:1] == b"\x01":
        size = (extradata[4 if codec == "h264" else 21] & 3) + 1
        at = 0
        while at + size < len(packet):
            found.append(packet[at + size])
            at += size + int.from_bytes(packet[at : at + size], "big")
        return found
    at = packet.find(b"\0\0\1")
    while 0 <= at < len(packet) - 3:
        found.append(packet[at + 3])
        at = packet.find(b"\0\0\1", at + 3)
    return found
