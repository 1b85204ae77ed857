"""One request of vLLM: prompts go in, tokens come out. Appended prompts find what came before in its KV cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any


class Stream:
    """A resumable request.

    The token that was sampled last is not in the KV cache: it must open the next prompt (the pending token).

    Args:
        llm: vLLM's `AsyncLLM`.
        name: of the request; no other may have it.
        params: vLLM's `SamplingParams` of the first prompt.
        lora: vLLM's `LoRARequest`, if the model has an adapter.
    """

    def __init__(self, llm: Any, name: str, params: Any, lora: Any) -> None:
        self._prompts: asyncio.Queue[Any] = asyncio.Queue()
        self._outputs: AsyncGenerator[Any, None] = llm.generate(self._inputs(), params, name, lora_request=lora)

    async def sample(self, prompt: Any, params: Any) -> AsyncGenerator[tuple[int, float], None]:
        """Append a prompt. Yields (token, log-probability) until params.max_tokens or a token that stops.

        Args:
            prompt: what vLLM's renderer made.
            params: vLLM's `SamplingParams`.
        """
        from vllm.engine.protocol import StreamingInput

        self._prompts.put_nowait(StreamingInput(prompt=prompt, sampling_params=params))
        left, ends = params.max_tokens, frozenset(params.stop_token_ids)
        while True:
            output = await anext(self._outputs, None)
            if output is None:
                raise RuntimeError("vLLM ended a request that was still to be continued")
            for piece in output.outputs:
                for token, logprobs in zip(piece.token_ids, piece.logprobs or (), strict=True):
                    left -= 1
                    yield token, logprobs[token].logprob
                    if not left or token in ends:
                        return
                if piece.finish_reason is not None:  # the longest conversation that vLLM was made for
                    return

    async def close(self) -> None:
        """End the request; its pages are given back."""
        await self._outputs.aclose()

    async def _inputs(self) -> AsyncGenerator[Any, None]:
        while True:
            yield await self._prompts.get()
