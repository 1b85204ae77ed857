from dataclasses import replace

import numpy as np
import pytest

from vzoom.config import ZoomConfig
from vzoom.protocol.frame_times import glance_timestamps
from vzoom.synthetic.spec import SyntheticConfig, make_training_video, make_video

LONG = SyntheticConfig(duration_seconds=3600, num_scenes=(5, 8), scene_seconds=(120, 1200))
HARD = SyntheticConfig(duration_seconds=200, scene_seconds=(20, 60), events_per_scene=(0, 6))


@pytest.mark.parametrize("config", [SyntheticConfig(), LONG, HARD], ids=["default", "hour", "many"])
def test_scenes_fill_the_video_and_no_event_lies_on_a_glance_frame(config):
    for seed in range(20):
        video = make_video(seed, config)
        assert video.scenes[0].start_seconds == 0
        assert video.scenes[-1].end_seconds == config.duration_seconds
        for before, after in zip(video.scenes, video.scenes[1:], strict=False):
            assert before.end_seconds == after.start_seconds
        assert len({s.colour for s in video.scenes}) == len(video.scenes)
        for scene in video.scenes:
            assert config.scene_seconds[0] <= scene.end_seconds - scene.start_seconds <= config.scene_seconds[1]
        glance = glance_timestamps(video.info(), ZoomConfig())
        for event in video.events:
            scene = video.scenes[event.scene]
            assert scene.start_seconds <= event.start_seconds < event.end_seconds <= scene.end_seconds
            assert event.end_seconds - event.start_seconds == config.event_seconds
            assert not any(event.start_seconds <= t < event.end_seconds for t in glance)


def test_each_scene_is_seen_by_the_glance():
    for seed in range(10):
        video = make_video(seed, LONG)
        glance = np.array(glance_timestamps(video.info(), ZoomConfig()))
        for scene in video.scenes:
            assert ((glance >= scene.start_seconds) & (glance < scene.end_seconds)).any()


def test_a_seed_is_one_video_and_training_never_meets_it():
    assert make_video(5) == make_video(5)
    assert make_video(5) != make_video(6)
    assert make_training_video(5) == make_training_video(5)
    training = {make_training_video(i).events for i in range(200)}
    assert not training & {make_video(i).events for i in range(200)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"duration_seconds": 10}, "32 to 3600"),
        ({"frame_size": 57}, "even"),
        ({"num_scenes": (3, 9)}, "one colour each"),
        ({"scene_seconds": (20.0, 30.0)}, "cannot fill"),
        ({"event_seconds": 0.7}, "at most 0.5"),
        ({"event_step_seconds": 0.25}, "overlap"),
        ({"event_seconds": 0.3}, "whole number of frames"),
        ({"duration_seconds": 33.0, "num_scenes": (3, 4)}, "multiple of scene_step_seconds"),
        ({"distractors": 4}, "0..3"),
        ({"fps": 2}, "4 to 60"),
        ({"events_per_scene": (3, 1)}, "fewest"),
    ],
)
def test_a_world_that_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SyntheticConfig(), **change)


def test_too_many_events_for_a_scene_say_so():
    with pytest.raises(ValueError, match="room for"):
        make_video(0, SyntheticConfig(events_per_scene=(60, 60)))


LINGERING = SyntheticConfig(duration_seconds=32, num_scenes=(4, 8), scene_seconds=(4, 8), lingering=0.3)
FIRST_EVENT = (5.0, "square")  # of video 3 of that set, as drawn before events could linger


def test_lingering_events_are_seen_at_a_glance_and_the_others_are_not():
    shown = []
    for seed in range(200):
        video = make_video(seed, LINGERING)
        glance = glance_timestamps(video.info(), ZoomConfig())
        for event in video.events:
            scene = video.scenes[event.scene]
            assert scene.start_seconds <= event.start_seconds < event.end_seconds <= scene.end_seconds
            length = event.end_seconds - event.start_seconds
            assert length in (0.5, 2.0)
            seen = any(event.start_seconds <= t < event.end_seconds for t in glance)
            assert seen == (length == 2.0)
            shown.append(seen)
    assert 0.26 < sum(shown) / len(shown) < 0.34


def test_without_lingering_the_videos_are_what_they_were():
    plain = replace(LINGERING, lingering=0.0)
    first = make_video(3, plain).events[0]
    assert (first.start_seconds, first.shape) == FIRST_EVENT
    with pytest.raises(ValueError, match="of their own"):
        replace(LINGERING, events_per_scene=(1, 2))
    with pytest.raises(ValueError, match="lingering must be"):
        replace(LINGERING, lingering=1.5)
