"""A synthetic video's frames: a landscape in the scene's colour, a sun that crosses the sky, a shape when one flashes.

Anti-aliased sprites are pasted into one background per scene, so a frame costs microseconds.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .spec import Scene, SyntheticVideo

RGB: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 45),
    "orange": (240, 130, 30),
    "yellow": (235, 210, 50),
    "green": (50, 155, 70),
    "blue": (45, 90, 205),
    "purple": (125, 55, 165),
    "pink": (245, 145, 190),
    "gray": (135, 140, 145),
}
_SHAPE_SCALE = 0.46  # side of a shape over the side of the frame
_SUN_SCALE = 0.13
_OVERSAMPLE = 4


class Painter:
    """Draws the frames of one video. It keeps the background of each scene.

    Args:
        video: what to draw.
    """

    def __init__(self, video: SyntheticVideo) -> None:
        self.video = video
        self._backgrounds: dict[int, np.ndarray] = {}

    def frame(self, index: int) -> np.ndarray:
        """Frame number `index`, from 0, which is on display from index / fps seconds on.

        Returns:
            RGB, uint8 [H, W, 3].

        Raises:
            ValueError: the video has no such frame.
        """
        video, size = self.video, self.video.config.frame_size
        if not 0 <= index < video.num_frames:
            raise ValueError(f"frame {index} is outside the video's {video.num_frames} frames")
        seconds = index / video.config.fps
        number = next(i for i, s in enumerate(video.scenes) if s.start_seconds <= seconds < s.end_seconds)
        scene = video.scenes[number]
        if number not in self._backgrounds:
            self._backgrounds[number] = _background(scene, size)
        image = self._backgrounds[number].copy()
        progress = (seconds - scene.start_seconds) / (scene.end_seconds - scene.start_seconds)
        sun = _sun(round(size * _SUN_SCALE))
        _paste(image, sun, (255, 244, 200), 0.1 + 0.8 * progress, 0.2 - 0.1 * math.sin(math.pi * progress))
        for event in video.events:
            if event.start_seconds <= seconds < event.end_seconds:
                side = round(size * _SHAPE_SCALE)
                _paste(image, shape_mask(event.shape, side, outline=True), (25, 25, 35), event.x, event.y)
                _paste(image, shape_mask(event.shape, side, outline=False), (255, 255, 255), event.x, event.y)
        bar = max(1, size // 56)
        image[-bar:, : round(size * (index + 1) / video.num_frames)] = 255
        return image


def _paste(image: np.ndarray, mask: np.ndarray, rgb: tuple[int, int, int], x: float, y: float) -> None:
    """Blend `rgb` through `mask` [h, w] in 0..1, centred at (x, y) of the frame, cut at the frame's edges."""
    size, side = image.shape[0], mask.shape[0]
    top, left = round(y * size - side / 2), round(x * size - side / 2)
    t, lo, b, r = max(0, top), max(0, left), min(size, top + side), min(size, left + side)
    alpha = mask[t - top : b - top, lo - left : r - left, None]
    patch = image[t:b, lo:r]
    patch[:] = np.rint(patch * (1 - alpha) + np.asarray(rgb, np.float32) * alpha).astype(np.uint8)


def _background(scene: Scene, size: int) -> np.ndarray:
    """Sky, two ranges of hills and ground, all in shades of the scene's colour. uint8 [size, size, 3]."""
    rng = np.random.default_rng(scene.style)
    base = np.asarray(RGB[scene.colour], np.float32)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32) / size
    image = base * (1.08 - 0.16 * ys[..., None])
    for level, shade in ((0.74, 0.86), (0.86, 0.70)):
        height = level + sum(
            0.035 / k * math.sin(1) * np.sin(2 * math.pi * (k * xs * rng.uniform(0.6, 1.1) + rng.uniform()))
            for k in (1, 2, 3)
        )
        edge = np.clip((ys - height) * size + 0.5, 0, 1)[..., None]
        image = image * (1 - edge) + base * shade * edge
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def _sun(side: int) -> np.ndarray:
    big = Image.new("L", (side * _OVERSAMPLE,) * 2)
    ImageDraw.Draw(big).ellipse((0, 0, side * _OVERSAMPLE - 1, side * _OVERSAMPLE - 1), fill=255)
    return np.asarray(big.resize((side, side), Image.Resampling.BOX), np.float32) / 255


@lru_cache(maxsize=256)
def shape_mask(shape: str, side: int, *, outline: bool) -> np.ndarray:
    """Coverage 0..1 of a shape, float32 [side, side]; `outline` is the same shape grown by its dark border."""
    n = side * _OVERSAMPLE
    big = Image.new("L", (n, n))
    pen = ImageDraw.Draw(big)

    def polygon(points: list[tuple[float, float]], fill: int = 255) -> None:
        pen.polygon([(n * (0.5 + 0.42 * x), n * (0.5 + 0.42 * y)) for x, y in points], fill=fill)

    def disc(x: float, y: float, radius: float, fill: int = 255) -> None:
        pen.ellipse([n * (0.5 + 0.42 * v) for v in (x - radius, y - radius, x + radius, y + radius)], fill=fill)

    if shape == "star":
        spokes = [(math.pi * i / 5, 1.0 if i % 2 == 0 else 0.42) for i in range(10)]
        polygon([(r * math.sin(a), -r * math.cos(a)) for a, r in spokes])
    elif shape == "heart":
        disc(-0.46, -0.34, 0.5)
        disc(0.46, -0.34, 0.5)
        polygon([(-0.9, -0.1), (0, 0.98), (0.9, -0.1), (0, -0.4)])
    elif shape == "moon":
        disc(-0.05, 0, 0.95)
        disc(0.45, -0.2, 0.8, fill=0)
    elif shape == "square":
        polygon([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    elif shape == "triangle":
        polygon([(0, -0.95), (0.98, 0.8), (-0.98, 0.8)])
    elif shape == "cross":
        polygon([(-0.28, -0.95), (0.28, -0.95), (0.28, 0.95), (-0.28, 0.95)])
        polygon([(-0.95, -0.28), (0.95, -0.28), (0.95, 0.28), (-0.95, 0.28)])
    elif shape == "ring":
        disc(0, 0, 0.95)
        disc(0, 0, 0.5, fill=0)
    elif shape == "bolt":
        polygon([(0.35, -1), (-0.65, 0.15), (-0.05, 0.15), (-0.35, 1), (0.65, -0.2), (0.05, -0.2)])
    else:
        raise ValueError(f"unknown shape {shape!r}")
    if outline:
        for _ in range(max(1, n // 28)):  # small filters in turn grow as one large filter does, in far less time
            big = big.filter(ImageFilter.MaxFilter(3))
    return np.asarray(big.resize((side, side), Image.Resampling.BOX), np.float32) / 255
