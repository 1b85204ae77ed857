"""A benchmark of few small synthetic videos, for tests of what runs benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vzoom.eval.item import Benchmark, Item, Verdict
from vzoom.protocol.answers import Choice, read_choice
from vzoom.protocol.judging import Judge
from vzoom.synthetic.questions import ask_questions
from vzoom.synthetic.spec import SyntheticConfig, make_video
from vzoom.synthetic.video import render

SMALL = SyntheticConfig(duration_seconds=32, frame_size=56, fps=4, num_scenes=(3, 4))


def small_benchmark(num_items: int = 6, *, missing: frozenset[int] = frozenset()) -> Benchmark:
    """missing: items whose video is never rendered. The key of item 2 is another letter than the right one, so that
    there is a wrong answer, however good the model."""

    def loads(root: Path, subtitles: bool) -> Iterator[Item]:
        for number in range(num_items):
            question = ask_questions(make_video(number, SMALL), "which", number)
            right = question.answer_letter
            yield Item(
                id=f"which-{number}",
                benchmark="small",
                video=f"{number}.mp4",
                question=question.text,
                options=question.options,
                reference=right if number != 2 else "B" if right == "A" else "A",
                category="even" if number % 2 == 0 else "odd",
                duration_bucket="short",
                subtitles=None,
                source=f"small:{number}",
                evidence=question.evidence,
            )

    def draw(path: Path, item: Item) -> None:
        number = int(path.stem)
        if number not in missing:
            part = path.with_suffix(".part.mp4")
            render(make_video(number, SMALL), part)
            part.replace(path)

    return Benchmark(
        name="small",
        title="Small",
        hub_id="none/none",
        revision="1",
        files=(),
        source="tests",
        prompt="the question",
        scorer="letter-1",
        paper={"base": 25.0, "videozoomer": 50.0},
        loads=loads,
        scores=_score,
        render=draw,
    )


def _score(item: Item, answer: str, judge: Judge | None) -> Verdict:
    choice = read_choice(answer, item.options)
    if not isinstance(choice, Choice):
        return Verdict("unparsable", detail=str(choice))
    return Verdict("right" if choice.letter == item.reference else "wrong", said=choice.letter)
