"""A conversation as it happens: the model's text as it comes, and a line for the glance and for each zoom."""

from __future__ import annotations

from typing import TextIO

from vzoom.report import UNTAGGED
from vzoom.types import CallError, Event, Finished, Malformed, StopReason, TextDelta, Turn, TurnEnded, TurnOpened
from vzoom.zoomer import Result

from .console import Style, printable

_WHY_NO_ANSWER = {
    StopReason.ROUNDS: "the last round ended without one",
    StopReason.TURN_TOKENS: "a turn reached its limit of new tokens (--max-new-tokens)",
    StopReason.TOTAL_TOKENS: "the conversation reached its limit of tokens (--max-total-tokens)",
    StopReason.CANCELLED: "the conversation was cancelled",
}


class Live:
    """Give it to `Zoomer.ask(on_event=…)`. `glance`: as `ZoomConfig.glance` says."""

    def __init__(self, stream: TextIO, *, glance: str = "exact") -> None:
        self.stream = stream
        self.style = Style(stream)
        self._kind = "keyframe" if glance == "keyframe" else "frame"
        self._num_zooms = 0
        self._column_is_0 = True
        self._is_first = True

    def __call__(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._write(printable(event.text))
        elif isinstance(event, TurnOpened):
            self._opened(event)
        elif isinstance(event, TurnEnded):
            self._ended(event)
        elif isinstance(event, Finished):
            self._fresh_line()

    def result(self, result: Result) -> None:
        """The answer and what it took."""
        trajectory = result.trajectory
        if result.answer is None:
            assert trajectory.stop_reason is not None, "a result is a conversation that ended"
            self._write(self.style(f"no answer: {_WHY_NO_ANSWER[trajectory.stop_reason]}\n", "red"))
        else:
            note = self.style(f"  ({UNTAGGED})", "dim") if trajectory.answer_is_untagged else ""
            self._write(f"{self.style('answer', 'bold')}  {self.style(printable(result.answer), 'green')}{note}\n")
        read = sum(turn.num_prefilled for turn in trajectory.turns)
        written = sum(turn.num_sampled for turn in trajectory.turns)
        zooms = _count(len(trajectory.zooms), "zoom")
        self._write(
            self.style(
                f"{zooms} · {_count(trajectory.num_frames, 'frame')} seen · {read} tokens read, {written} written · "
                f"{result.seconds:.1f} s\n",
                "dim",
            )
        )

    def _opened(self, event: TurnOpened) -> None:
        if self._is_first:
            self._is_first = False
            assert event.clip is not None, "a conversation opens with a glance"
            pts = event.clip.pts_seconds
            self._write(f"{self.style('glance', 'cyan')}  {_count(len(pts), self._kind)}, {pts[0]:.2f}–{pts[-1]:.2f} s")
        self._write(self.style(f" · {_cost(event.turn)}\n", "dim"))

    def _ended(self, event: TurnEnded) -> None:
        turn, outcome = event.turn, event.turn.outcome
        self._fresh_line()
        written = f"wrote {turn.num_sampled} tokens"
        if "generate" in turn.milliseconds:
            written += f" in {turn.milliseconds['generate']:.0f} ms"
        self._write(self.style(f"{written}\n", "dim"))
        # The line stays open: what reading it cost is known when the next turn opens.
        if event.clip is not None:
            for number, (call, times) in enumerate(turn.clips):
                self._num_zooms += 1
                name = self.style(f"zoom {self._num_zooms}", "cyan")
                end = turn.end_seconds if number + 1 == len(turn.clips) else call.end_seconds
                span = f"{call.start_seconds:.2f}–{end:.2f} s"
                after = "\n" if number else ""
                self._write(f"{after}{name}  {span}, {_count(len(times), 'frame')} at {call.fps:g} fps")
        elif isinstance(outcome, Malformed):
            word = "asked" if outcome.error is CallError.FRAME_ASKED else self.style("refused", "red")
            self._write(f"{word}  {outcome.error}: {printable(outcome.detail)}")

    def _fresh_line(self) -> None:
        if not self._column_is_0:
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            self.stream.write(text)
            self.stream.flush()
            self._column_is_0 = text.endswith(("\n", "\n\x1b[0m"))


def _cost(turn: Turn) -> str:
    """Tokens fed to open the turn, and milliseconds of each stage of that."""
    stages = [f"{stage} {ms:.0f} ms" for stage, ms in turn.milliseconds.items() if stage != "generate"]
    reused = [f"{turn.num_reused} of them reused, approximate"] if turn.num_reused else []
    return " · ".join([f"{turn.num_prefilled} tokens", *reused, *stages])


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
