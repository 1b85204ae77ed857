"""Ask one question about one video, and see where the model looked.

python examples/ask.py
python examples/ask.py --video match.mp4 --question "Who scored first?" --model zsgvivo/videozoomer
"""

from __future__ import annotations

from inputs import arguments

import vzoom


def main() -> None:
    args = arguments(__doc__)
    zoomer = vzoom.load(args.model)
    result = zoomer.ask(args.video, args.question, max_zooms=4)

    print(args.question)
    glance = result.trajectory.glance_seconds
    print(f"glance: {len(glance)} frames from {glance[0]:.1f} s to {glance[-1]:.1f} s")
    for call, clip in zip(result.trajectory.calls, result.clips, strict=True):
        print(f"zoom:   {len(clip)} frames from {call.start_seconds:g} s to {call.end_seconds:g} s")
    # None if a limit came before the answer; stop_reason then says which one.
    print(f"answer: {result.answer} ({result.trajectory.stop_reason}, {result.seconds:.1f} s)")

    # One HTML file that works without a network: the timeline, every frame that was seen, the thoughts, the costs.
    print(f"report: {result.report.save(args.out / 'answer.html')}")


if __name__ == "__main__":
    main()
