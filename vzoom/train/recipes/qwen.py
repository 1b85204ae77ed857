"""Recipes for hub checkpoints, on questions of your own (`vzoom data import`)."""

from __future__ import annotations

from dataclasses import replace

from ...config import ZoomConfig
from ..rl.reward import RewardConfig
from .recipe import ClipBounds, GRPORecipe, Lora, Optimisation, Recipe, ReflectionRecipe, SFTRecipe


def qwen2_5_vl_7b() -> Recipe:
    """VideoZoomer's figures (arXiv 2512.22315), for eight GPUs of 80 GB (`--launch fsdp2`).

    Those that the paper does not give are ours: the batch of SFT, the ratio of reflections, the length of RL.
    """
    return Recipe(
        name="qwen2.5-vl-7b",
        base="Qwen/Qwen2.5-VL-7B-Instruct",
        zoom=ZoomConfig(),  # 64 glance frames at 0.5 fps, 4 zooms of 16 frames, 128 tokens a frame, 32 768 in all
        reflection=ReflectionRecipe(ratio=0.25, rollouts=1, temperature=1.0),
        sft=SFTRecipe(
            optimisation=Optimisation(5e-6, warmup=0.1, schedule="cosine"),
            epochs=1.0,
            batch_size=64,
            micro_batch_size=1,
            freeze_vision=True,
            cache_features=True,
            gradient_checkpointing=True,
            eval_questions=128,
            eval_every=50,
            save_every=50,
        ),
        grpo=GRPORecipe(
            optimisation=Optimisation(1e-6, schedule="constant"),
            steps=100,
            questions_per_step=128,
            num_rollouts=16,
            updates_per_step=4,  # 2 048 rollouts in mini-batches of 32 questions
            micro_batch_size=1,
            temperature=1.0,
            clip=ClipBounds(0.2, 0.27),
            kl_weight=0.001,
            entropy_weight=0.001,
            reward=RewardConfig(accuracy_weight=0.9, format_weight=0.1, tool_bonus=0.5, target_zoom_rate=0.5),
            freeze_vision=True,
            cache_features=True,
            gradient_checkpointing=True,
            eval_questions=128,
            eval_every=10,
            save_every=10,
            max_sessions=32,
            pool_tokens=256 * 1024,  # 15 GB of KV; a conversation is 10 to 15 thousand tokens
        ),
    )


def qwen2_5_vl_3b_1gpu() -> Recipe:
    """One GPU of 32 GB: adapters on the language model, features of the frozen tower cached, shorter conversations."""
    zoom = ZoomConfig(
        glance_max_frames=32,
        max_frames=96,
        max_pixels=50176,  # 64 tokens a frame
        max_new_tokens=1024,
        max_total_tokens=12288,
    )
    big = qwen2_5_vl_7b()
    lora = Lora(rank=64, alpha=128)
    return replace(
        big,
        name="qwen2.5-vl-3b-1gpu",
        base="Qwen/Qwen2.5-VL-3B-Instruct",
        zoom=zoom,
        sft=replace(
            big.sft,
            optimisation=Optimisation(1e-4, warmup=0.1, schedule="cosine"),
            batch_size=16,
            lora=lora,
            eval_questions=64,
            eval_sessions=4,
        ),
        grpo=replace(
            big.grpo,
            optimisation=Optimisation(1e-5),
            questions_per_step=8,
            num_rollouts=8,
            updates_per_step=2,
            lora=lora,
            eval_questions=64,
            max_sessions=8,
            pool_tokens=8 * 12288,
        ),
    )
