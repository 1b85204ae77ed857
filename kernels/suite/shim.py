"""Runs the checks on a module with the functions that the extension has for CUDA: under the shim, CPU tensors."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from ..frames_to_patches.cuda_impl import frames_to_patches
from ..paged_attention.cuda_impl import decode
from .cases import placed


@dataclass(frozen=True)
class NativeRunner:
    """The CUDA C++ of `native`. splits: pieces of the context in paged_attention."""

    native: ModuleType
    splits: int = 1

    def put(self, tensor: Tensor) -> Tensor:
        return placed(tensor, tensor.device)

    def put_pages(self, heads_first: Tensor) -> Tensor:
        return placed(heads_first, heads_first.device).transpose(-3, -2)

    def heads_first(self, pages: Tensor) -> Tensor:
        return pages.transpose(-3, -2)

    def run(self, op: str, *args: Any, **kwargs: Any) -> Any:
        if op == "frames_to_patches":
            frames, table = args
            frames_to_patches(frames, table, kwargs.pop("out"), native=self.native, **kwargs)
        elif op == "paged_attention":
            out, lse = kwargs["out"], kwargs["lse"]
            q, k_pages, v_pages, block_table, kv_lens, cu_seqlens_q = args
            decode(
                q,
                k_pages,
                v_pages,
                block_table,
                kv_lens,
                cu_seqlens_q,
                out,
                lse,
                kwargs["scale"],
                kwargs["causal"],
                native=self.native,
                splits=self.splits,
            )
            return out
        elif op == "merge_states":
            self.native.cuda_merge_states(*args, kwargs["out"], kwargs["lse"])
        elif op == "splice_move":
            self.native.cuda_splice_move(*args)
        else:
            getattr(self.native, f"cuda_{op}")(*args)
        return None
