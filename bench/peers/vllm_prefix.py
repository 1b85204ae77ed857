"""vLLM with prefix caching: every turn is a request with all of the conversation, computed where it is not cached."""

from __future__ import annotations

import os
from typing import Any

import vllm
from PIL import Image
from workload import Workload

from . import Phases


def make(model: str, dtype: str, mode: str) -> VllmPrefix:
    return VllmPrefix(model, dtype)


class VllmPrefix:
    def __init__(self, model: str, dtype: str) -> None:
        options: dict[str, Any] = {
            "enforce_eager": True,  # compiling takes minutes and gained nothing on a CPU
            "enable_prefix_caching": True,
            "max_model_len": 32768,
            "max_num_batched_tokens": 32768,  # a glance in one step
            "max_num_seqs": 8,
            "limit_mm_per_prompt": {"image": 128, "video": 0},
            "disable_log_stats": True,
            "seed": 0,
        }
        self.llm = vllm.LLM(model=model, dtype=dtype, **options)
        self.engine: Any = self.llm.llm_engine
        self.phases = Phases()
        self.prompt_tokens: list[int] = []
        self.checked = False
        self.logprobs: list[list[list[float]]] = []
        self.versions = {"vllm": vllm.__version__}
        cache = self.engine.vllm_config.cache_config
        space = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "")
        self.settings = {"block_size": cache.block_size, "kv_space_gib": space, "enforce_eager": True}
        self._requests = 0
        self._images: list[list[Image.Image]] = []

        worker = self.engine.engine_core.engine_core.model_executor.driver_worker
        runner = getattr(worker, "worker", worker).model_runner
        self.phases.watch(runner, "_execute_mm_encoder", "vision")
        self._forward = runner._model_forward
        runner._model_forward = self._timed_forward
        self._decoding = False

    def _timed_forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._decoding:  # the whole step is booked
            return self._forward(*args, **kwargs)
        with self.phases.stage("prefill"):
            return self._forward(*args, **kwargs)

    def prepare(self, work: Workload) -> None:
        self.engine.reset_mm_cache()
        self.engine.reset_prefix_cache()
        self.engine.reset_encoder_cache()
        self._glance = [Image.fromarray(frame) for frame in work.glance]
        self._clips = [[[Image.fromarray(frame) for frame in clip] for clip in own] for own in work.clips]

    def run(self, work: Workload) -> list[list[list[int]]]:
        shape = work.shape
        ids = [work.prompt_ids.tolist() for _ in range(shape.rollouts)]
        images = [list(self._glance) for _ in range(shape.rollouts)]
        self.prompt_tokens = []
        self.logprobs = []
        sampled: list[list[list[int]]] = []
        for turn in range(shape.turns):
            sampled.append(self._generate(ids, images, shape.turn_tokens(turn)))
            for rollout, tokens in enumerate(sampled[-1]):
                ids[rollout] += tokens
                if turn < shape.zooms:
                    ids[rollout] += work.turn_ids[rollout, turn].tolist()
                    images[rollout] += self._clips[rollout][turn]
        return sampled

    def _generate(self, ids: list[list[int]], images: list[list[Image.Image]], count: int) -> list[list[int]]:
        """`count` greedy tokens behind each conversation."""
        wanted = vllm.SamplingParams(
            temperature=0,
            max_tokens=count,
            min_tokens=count,
            ignore_eos=True,
            detokenize=False,
            logprobs=0 if self.checked else None,
        )
        rollout_of: dict[str, int] = {}
        for rollout, (own_ids, own_images) in enumerate(zip(ids, images, strict=True)):
            self._requests += 1
            name = f"request{self._requests}"
            rollout_of[name] = rollout
            prompt = {"prompt_token_ids": own_ids, "multi_modal_data": {"image": own_images}}
            with self.phases.stage("patches"):
                self.engine.add_request(name, prompt, wanted)
        done: dict[int, Any] = {}
        begun: set[int] = set()
        while self.engine.has_unfinished_requests():
            self._decoding = len(begun) == len(ids)
            if self._decoding:
                with self.phases.stage("decode"):
                    outputs = self.engine.step()
                self.phases.decode_tokens += len(outputs)
            else:
                outputs = self.engine.step()
            for output in outputs:
                rollout = rollout_of[next(name for name in rollout_of if _is_request(output.request_id, name))]
                begun.add(rollout)
                if output.finished:
                    done[rollout] = output
        self.prompt_tokens.append(len(done[0].prompt_token_ids))
        made = [done[rollout].outputs[0] for rollout in range(len(ids))]
        if self.checked:
            self.logprobs.append(
                [[at[token].logprob for token, at in zip(own.token_ids, own.logprobs, strict=True)] for own in made]
            )
        return [list(own.token_ids) for own in made]


def _is_request(given_id: str, name: str) -> bool:
    """Newer versions append a random suffix to the id that they were given."""
    return given_id == name or given_id.startswith(f"{name}-")
