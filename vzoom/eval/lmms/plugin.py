"""The class that lmms-eval makes for `--model vzoom`. This file alone needs lmms_eval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from .answer import replies
from .question import LmmsQuestion, read_question
from .settings import Settings


class VZoom(lmms):
    """A vzoom model behind lmms-eval's interface for chat models. Arguments: `Settings`."""

    is_simple = False

    def __init__(self, **args: Any) -> None:
        super().__init__()
        self.settings = Settings.from_args(args)
        self.zoomer = self.settings.load()

    @property
    def device(self) -> torch.device:
        """Where lmms-eval puts the tensors that it gathers over processes."""
        return self.zoomer.checkpoint.model.device

    def generate_until(self, requests: Sequence[Instance]) -> Iterable[GenerationResult]:
        """Answers in the requests' order, block by block: lmms-eval's response cache writes each as it comes, so that a
        killed run resumes. What cannot be asked is an error before anything is asked."""
        results = self._results(self._questions(requests))
        return list(results) if len(requests) == 1 else results  # agentic tasks take the first of one

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        raise NotImplementedError(
            "vzoom answers in words, after zooms that it chooses itself: it gives no likelihood of a given text. "
            "Use a variant of the task with output_type generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        raise NotImplementedError(
            "vzoom is asked one question a conversation: tasks of output_type generate_until_multi_round are not "
            "supported. Its zooms are rounds of its own, within generate_until"
        )

    def clean(self) -> None:
        """Make room for a judge on the same GPU: nothing is asked any more."""
        del self.zoomer
        super().clean()

    def _questions(self, requests: Sequence[Instance]) -> list[LmmsQuestion]:
        questions = []
        asked: Counter[tuple[str, Any]] = Counter()
        for request in requests:
            _, doc_to_messages, kwargs, document, task, split = request.args
            questions.append(
                read_question(
                    doc_to_messages(self.task_dict[task][split][document]),
                    kwargs,
                    task=task,
                    document=document,
                    repeat=asked[task, document],
                    seed=self.settings.seed,
                )
            )
            asked[task, document] += 1
        return questions

    def _results(self, questions: Sequence[LmmsQuestion]) -> Iterator[GenerationResult]:
        done = replies(self.zoomer, questions, self.settings)
        for reply in tqdm(done, total=len(questions), disable=self.rank != 0, desc="Model Responding"):
            yield GenerationResult(reply.text, TokenCounts(input_tokens=reply.num_fed, output_tokens=reply.num_written))
