"""Answer one question eight times, as reinforcement learning does, and compare the rollouts.

    python examples/rollouts.py
    python examples/rollouts.py --video match.mp4 --question "Who scored first?" --model zsgvivo/videozoomer

The group shares its glance: the frames are encoded once and the prompt is fed once. The rollouts part after it, and
each zooms where it likes.
"""

from __future__ import annotations

from collections import Counter

from inputs import arguments

import vzoom


def main() -> None:
    args = arguments(__doc__)
    zoomer = vzoom.load(args.model)
    group = zoomer.rollouts(args.video, args.question, 8, sampling=vzoom.Sampling(temperature=1.5, seed=1))

    for number, result in enumerate(group):
        trajectory = result.trajectory
        looked = ", ".join(f"{call.start_seconds:g}–{call.end_seconds:g} s" for call in trajectory.calls) or "nowhere"
        # Only sampled tokens have a log-probability: prompts, frames and tool turns were fed, not chosen.
        logprob = sum(value for value, sampled in zip(trajectory.logprobs, trajectory.sampled, strict=True) if sampled)
        print(f"rollout {number}: {result.answer}  looked at {looked}  log-probability {logprob:.2f}")

    answers = Counter(result.answer for result in group)
    print(f"answers: {dict(answers)}")
    features = zoomer.cache_stats()["features"]
    print(f"frames that the vision tower encoded: {features.misses}; found again in its cache: {features.hits}")


if __name__ == "__main__":
    main()
