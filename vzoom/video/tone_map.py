"""HDR pictures -> what they look like on a screen of standard range: sRGB's primaries, reference white at 203 cd/m².

Light that the screen cannot show is rolled off by the EETF of ITU-R BT.2390-10 section 5.4, on the largest of R, G and
B, so that hues stay. Reference white is that of BT.2408. PQ is SMPTE ST 2084, HLG is ITU-R BT.2100 with its system
gamma of 1.2 for a screen of 1000 cd/m².
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

PQ, HLG = 16, 18  # AVColorTransferCharacteristic
WHITE_NITS = 203.0
DEFAULT_PEAK_NITS = 1000.0  # of files that do not say how bright they get

_STEPS = 65536
_ROWS = 64  # at once, so that the float pictures in between stay small
# Linear light of BT.2020's primaries to that of BT.709's (BT.2087).
_TO_709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)


def pq_code(nits: np.ndarray) -> np.ndarray:
    """Light in cd/m² -> PQ's signal, from 0 to 1."""
    power = (np.clip(nits, 0, None) / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def pq_nits(code: np.ndarray) -> np.ndarray:
    """PQ's signal, from 0 to 1 -> light in cd/m²."""
    power = np.clip(code, 0, 1) ** (32 / 2523)
    return 10000 * (np.clip(power - 3424 / 4096, 0, None) / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610)


def hlg_scene(code: np.ndarray) -> np.ndarray:
    """HLG's signal, from 0 to 1 -> light of the scene, from 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)


def rolled_off(nits: np.ndarray, peak_nits: float) -> np.ndarray:
    """The light that a screen of `WHITE_NITS` shows for light of a picture that goes up to `peak_nits`."""
    top = float(pq_code(np.array(max(peak_nits, WHITE_NITS))))
    signal = np.minimum(pq_code(nits) / top, 1)
    most = float(pq_code(np.array(WHITE_NITS))) / top
    knee = 1.5 * most - 0.5
    t = np.clip((signal - knee) / max(1 - knee, 1e-9), 0, 1)
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    )  # fmt: skip
    return np.asarray(pq_nits(np.where(signal < knee, signal, curve) * top))


@lru_cache(maxsize=8)
def _tables(transfer: int, peak_nits: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a signal its light; of the root of the largest light its gain; of the root of shown light its level."""
    unit = np.linspace(0, 1, _STEPS)
    light = pq_nits(unit) if transfer == PQ else hlg_scene(unit)
    largest = unit**2 * 10000
    gain = rolled_off(largest, peak_nits) / np.maximum(largest, 1e-9) / WHITE_NITS
    gain[0] = gain[1]
    level = np.rint(255 * unit ** (2 / 2.4))  # BT.1886
    return light.astype(np.float32), gain.astype(np.float32), level.astype(np.uint8)


def tone_mapped(signal_HW3: np.ndarray, *, transfer: int, peak_nits: float) -> np.ndarray:
    """HDR signal -> picture of standard range.

    Args:
        signal_HW3: uint16 [H, W, 3], R'G'B' of BT.2020's primaries, full range.
        transfer: `PQ` or `HLG`.
        peak_nits: the brightest light of the video, in cd/m².

    Returns:
        uint8 [H, W, 3].
    """
    light_of, gain_of, level_of = _tables(transfer, peak_nits)
    shown = np.empty(signal_HW3.shape, np.uint8)
    for top in range(0, len(signal_HW3), _ROWS):
        light = light_of[signal_HW3[top : top + _ROWS]]
        if transfer == HLG:
            light *= 1000 * np.power(light @ _LUMA_2020, 0.2)[:, :, None]
        largest = np.sqrt(light.max(axis=2) / 10000)
        light *= gain_of[(largest * (_STEPS - 1)).astype(np.uint16)][:, :, None]
        root = np.sqrt(np.clip(light @ _TO_709.T, 0, 1))
        shown[top : top + _ROWS] = level_of[(root * (_STEPS - 1) + 0.5).astype(np.uint16)]
    return shown
