"""Ask many questions at once: one engine, one batch, and an error that stays with its own request.

python examples/many_questions.py
python examples/many_questions.py --video match.mp4 --question "Who scored first?" --model zsgvivo/videozoomer
"""

from __future__ import annotations

from pathlib import Path

from inputs import arguments, rendered_video

import vzoom
from vzoom.video import ClipCache


def main() -> None:
    args = arguments(__doc__)
    checkpoint = vzoom.load(args.model).checkpoint
    config = checkpoint.config
    questions = [(args.video, args.question), (Path("no-such-video.mp4"), "What happens?")]
    for seed in range(5, 10):
        video, question = rendered_video(args.out, seed)
        questions.append((video, question.text))

    # Requests hold no open files: the engine opens a video when there is room for its conversation. The cache keeps
    # decoded frames, so that two questions about one video decode it once.
    clips = ClipCache()
    requests = [
        vzoom.Request.about(video, question, checkpoint=checkpoint, clip_cache=clips, config=config)
        for video, question in questions
    ]
    engine = vzoom.Engine(checkpoint, max_sessions=4, max_total_tokens=config.max_total_tokens)
    try:
        # One list of outcomes per request, in order, and in it one outcome per rollout (here 1).
        for (video, _), [outcome] in zip(questions, engine.run(requests), strict=True):
            if outcome.error is not None:
                print(f"{video}: {outcome.error}")
            else:
                trajectory = outcome.unwrap()
                print(f"{video}: {trajectory.answer} after {len(trajectory.calls)} zooms, {outcome.seconds:.1f} s")
    finally:
        engine.close()


if __name__ == "__main__":
    main()
