"""The systems that are compared, each behind the same four names.

prepare(work): forget everything, make images; not timed. run(work): tokens sampled, [turn][rollout][token].
phases: CPU seconds by stage. prompt_tokens: context length of each turn of rollout 0 before it samples, as the system
counted it. logprobs: of each token that run sampled, where `checked` was set before it: such a run is not timed.
Each file is imported in its system's own environment only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from workload import Workload

# name -> (module here, mode)
SYSTEMS = {
    "vzoom": ("vzoom_engine", ""),
    "vllm": ("vllm_prefix", ""),
    "hf_cache": ("hf_generate", "cache"),
    "hf_reprefill": ("hf_generate", "reprefill"),
}


class Spent(NamedTuple):
    wall: float
    cpu: float


class Clock:
    """Wall seconds, and CPU seconds of all threads of this process."""

    def now(self) -> Spent:
        return Spent(time.perf_counter(), time.process_time())

    def since(self, began: Spent) -> Spent:
        now = self.now()
        return Spent(now.wall - began.wall, now.cpu - began.cpu)


@dataclass
class Phases:
    """CPU seconds of the calling thread by stage. Stages do not nest; what no stage claims is "other" in the report.

    patches: frames -> pixel values (with vLLM: its whole front end). vision: the tower. prefill: the language model
    over prompts and tool turns.
    decode: whole steps in which every running rollout samples one more token, scheduler and sampler included.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    decode_tokens: int = 0

    def reset(self) -> None:
        self.seconds = {}
        self.decode_tokens = 0

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.thread_time()
        try:
            yield
        finally:
            self.add(name, time.thread_time() - began)

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Book every call of `owner.name` under `stage`."""
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(stage):
                return call(*args, **kwargs)

        setattr(owner, name, timed)


class System(Protocol):
    versions: dict[str, str]
    settings: dict[str, Any]
    phases: Phases
    prompt_tokens: list[int]
    checked: bool
    logprobs: list[list[list[float]]]

    def prepare(self, work: Workload) -> None: ...
    def run(self, work: Workload) -> list[list[list[int]]]: ...


def make_system(name: str, *, model: str, dtype: str) -> System:
    """Import and load one of SYSTEMS."""
    module, mode = SYSTEMS[name]
    system: System = import_module(f"peers.{module}").make(model, dtype, mode)
    return system
