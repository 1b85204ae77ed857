"""The encoded file shows what the spec says: each event in its seconds, in no glance frame."""

import numpy as np
import pytest

from vzoom.config import ZoomConfig
from vzoom.protocol.frame_times import glance_timestamps
from vzoom.synthetic.draw import RGB, Painter, shape_mask
from vzoom.synthetic.questions import config_for
from vzoom.synthetic.spec import SHAPES, SyntheticConfig, make_video
from vzoom.synthetic.video import render
from vzoom.video import open_video


@pytest.fixture(scope="module", params=["which", "count"])
def rendered(request, tmp_path_factory):
    video = make_video(11, config_for(request.param))
    return video, render(video, tmp_path_factory.mktemp("video") / "v.mp4")


def whiteness(frames):
    """Fraction of nearly white pixels in the middle of each frame: only a shape is white there."""
    size = frames.shape[1]
    middle = frames[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4]
    return (middle.min(-1) > 225).mean((1, 2))


def test_the_file_is_what_the_spec_says(rendered):
    video, path = rendered
    with open_video(path) as reader:
        assert reader.info.duration_seconds == pytest.approx(video.config.duration_seconds, abs=1e-3)
        assert reader.info.fps == pytest.approx(video.config.fps)
        assert (reader.info.width, reader.info.height) == (video.config.frame_size,) * 2


def test_an_event_is_visible_exactly_in_its_seconds(rendered):
    video, path = rendered
    step = 1 / video.config.fps
    with open_video(path) as reader:
        clip = reader.frames_at([i * step for i in range(video.num_frames)])
    assert len(clip) == video.num_frames
    shown = whiteness(clip.frames) > 0.05
    told = np.array([any(e.start_seconds <= t < e.end_seconds for e in video.events) for t in clip.pts_seconds])
    assert (shown == told).all()


def test_no_glance_frame_shows_an_event_and_each_shows_its_scene(rendered):
    video, path = rendered
    with open_video(path) as reader:
        clip = reader.frames_at(glance_timestamps(reader.info, ZoomConfig()))
    assert whiteness(clip.frames).max() < 0.01
    names = list(RGB)
    for frame, t in zip(clip.frames, clip.pts_seconds, strict=True):
        middle = frame[len(frame) // 3 : len(frame) // 2].reshape(-1, 3).astype(float).mean(0)
        nearest = names[int(np.argmin([np.abs(middle - np.array(RGB[n])).sum() for n in names]))]
        scene = next(s for s in video.scenes if s.start_seconds <= t < s.end_seconds)
        assert nearest == scene.colour


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    config = SyntheticConfig(duration_seconds=32, num_scenes=(3, 4))
    one, two = (render(make_video(4, config), tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert one == two


def test_shapes_differ_and_a_frame_outside_is_refused():
    masks = [shape_mask(s, 40, outline=False) for s in SHAPES]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert np.abs(one - other).mean() > 0.08
    with pytest.raises(ValueError, match="outside"):
        Painter(make_video(0)).frame(512)
    with pytest.raises(ValueError, match="unknown shape"):
        shape_mask("egg", 40, outline=False)


def test_a_video_is_there_when_it_is_whole(tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stopped(self, index):
        if index == 100:
            raise Stopped
        return frame(self, index)

    frame = Painter.frame
    monkeypatch.setattr(Painter, "frame", stopped)
    with pytest.raises(Stopped):
        render(make_video(1), tmp_path / "w.mp4")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert render(make_video(1), tmp_path / "w.mp4").stat().st_size > 10_000
