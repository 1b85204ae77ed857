"""Conversations made by hand, for the tests of the report and of the command line."""

from __future__ import annotations

import numpy as np

from vzoom import protocol
from vzoom.types import Answer, CallError, Clip, Malformed, StopReason, Trajectory, Turn, VideoInfo, Visual, ZoomCall
from vzoom.zoomer import Result

QUESTION = "Which shape flashes in the red scene?\nA: star\nB: disc\nC: cross\nD: ring\nAnswer with the letter."


def make_clip(times: list[float], *, height: int = 72, width: int = 128, clamped_from: float = float("inf")) -> Clip:
    """Frames with a gradient and a bright square that moves with time."""
    rows, columns = np.mgrid[0:height, 0:width]
    frames = []
    for t in times:
        frame = np.stack([np.full_like(rows, 40 + int(t) % 60), 60 + rows % 120, 110 + columns % 100], axis=-1).astype(
            np.uint8
        )
        x = int(t * 3) % (width - 16)
        frame[height // 3 : height // 3 + 16, x : x + 16] = (250, 210, 70)
        frames.append(frame)
    return Clip(
        np.stack(frames),
        tuple(times),
        tuple(round(t * 30) for t in times),
        tuple(t >= clamped_from for t in times),
    )


VZOOM = protocol.builtin_protocol("vzoom")


def make_result(
    *,
    question: str = QUESTION,
    thought: str = "The glance at 40 s shows a red wall, but nothing on it. I look between the frames.",
    answer: str | None = "B",
    path: str = "/videos/walk in the park.mp4",
    num_glance: int = 48,
    duration_seconds: float = 126.0,
    stop_reason: StopReason = StopReason.ANSWERED,
) -> Result:
    """A conversation of two zooms and one refused call; without an answer it stops in its last turn."""
    video = VideoInfo(path, duration_seconds, 30.0, 1280, 720)
    trajectory = Trajectory(question, video, answer=answer, stop_reason=stop_reason, protocol=VZOOM.name)
    glance = make_clip([i * duration_seconds / num_glance for i in range(num_glance)])
    calls = [ZoomCall(40.0, 44.0, 4.0), ZoomCall(duration_seconds - 6, duration_seconds + 2, 2.0)]
    clips, turns = [], []
    for call in calls:
        end = min(call.end_seconds, duration_seconds)
        clip = make_clip([call.start_seconds + i / call.fps for i in range(int((end - call.start_seconds) * call.fps))])
        clips.append(clip)
        turns.append(
            Turn(
                protocol.render_turn(thought, call, VZOOM),
                call,
                61,
                640,
                end,
                clip.pts_seconds,
                milliseconds=_times(len(turns)),
            )
        )
    refused = Malformed(CallError.REVERSED, '{"segment": [52, 50], "fps": 4}')
    turns.insert(
        1,
        Turn(
            f"<think>{thought}</think><video_zoom>{refused.detail}</video_zoom>",
            refused,
            38,
            310,
            milliseconds=_times(1),
        ),
    )
    if answer is None:
        turns.append(Turn("<think>I cannot", None, 4, 230, milliseconds=_times(3)))
    else:
        turns.append(
            Turn(
                protocol.render_turn("A disc at 41.50 s.", Answer(answer), VZOOM),
                Answer(answer),
                27,
                230,
                milliseconds=_times(3),
            )
        )
    trajectory.turns = turns
    trajectory.glance_seconds = glance.pts_seconds
    trajectory.visuals = [Visual((t,), (1, 4, 4), 0, 4) for clip in (glance, *clips) for t in clip.pts_seconds]
    return Result(trajectory, glance=glance, clips=clips, seconds=3.21, model="Qwen/Qwen2.5-VL-7B-Instruct")


def _times(number: int) -> dict[str, float]:
    base = {"decode": 41.0, "patches": 9.5, "vision": 120.0, "prefill": 88.0, "generate": 512.0}
    return {stage: value * (1 + 0.4 * (number == 0)) for stage, value in base.items()}
