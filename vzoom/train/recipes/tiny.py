"""Recipes for one CPU core, on rendered videos: that of the ablation, and that of the embedded model.

They pretrain their own base (`train/pretrain`): its tasks teach it to see, to look words up and to answer without
zooming. All that it knows of zooming comes from the later stages of the pipeline.
"""

from __future__ import annotations

from dataclasses import replace

from ...config import ZoomConfig
from ...protocol import builtin_protocol
from ...synthetic import SyntheticConfig, config_for
from ..pretrain.curriculum import Curriculum, CurriculumStage
from ..rl.collapse import CollapseLimits
from ..rl.reward import RewardConfig
from .recipe import GRPORecipe, Optimisation, Recipe, ReflectionRecipe, SFTRecipe, SyntheticData

_SIDE = 56  # pixels of a frame: four visual tokens


def ablation() -> Recipe:
    """Videos of 32 s with 4 to 8 scenes; one in five shows its shape to the glance, and a zoom shows at most 4 s."""
    zoom = ZoomConfig(
        protocol=builtin_protocol("vzoom-brief"),
        zoom_max_frames=8,
        # Well below max_pixels, so that a frame which was resized once is left alone by the next resize.
        min_pixels=_SIDE * _SIDE // 4,
        max_pixels=_SIDE * _SIDE,
        glance_max_frames=32,
        max_frames=80,
        max_new_tokens=64,
        max_total_tokens=1280,
        answer_reserve=64,
    )
    config = SyntheticConfig(
        duration_seconds=32.0,
        frame_size=84,
        num_scenes=(4, 8),
        scene_seconds=(4.0, 8.0),
        lingering=0.2,
    )
    configs = {"which": config}
    curriculum = Curriculum(
        name="ablation",
        zoom=zoom,
        # More lingers than in the questions: the model must also learn when a glance is enough.
        families={"which": replace(config, lingering=0.5)},
        side=_SIDE,
        num_videos=600,
        stages=(
            CurriculumStage("recall", 500, {"recall": 1}, last=0.8),
            CurriculumStage("see", 420, {"captions": 2, "look": 3, "recall": 1, "letters": 1}, last=0.7),
            CurriculumStage(
                "shapes",
                200,
                {"captions": 3, "look": 2, "recall": 0.3, "letters": 0.3, "reading": 1.5},
                clip_frames=6,
                last=0.7,
            ),
            CurriculumStage(
                "few",
                250,
                {"captions": 1.5, "look": 2, "recall": 0.5, "letters": 0.7, "scenes": 3, "reading": 3},
                muon_lr=0.008,
                vision_factor=0.7,
                glance_frames=8,
                clip_frames=8,
                last=0.7,
            ),
            CurriculumStage(
                "all",
                600,
                {"captions": 1, "look": 0.7, "letters": 0.5, "scenes": 3, "reading": 4, "answers": 2.5},
                muon_lr=0.007,
                adam_lr=1.5e-3,
                vision_factor=0.5,
                last=0.03,
            ),
        ),
    )
    return Recipe(
        name="ablation",
        base="",
        zoom=zoom,
        synthetic=SyntheticData(curriculum, configs, num_videos={"which": 600}, exemplars=250),
        reflection=ReflectionRecipe(ratio=0.5, rollouts=2),
        sft=_sft(epochs=4),
        grpo=_grpo(steps=20),
    )


def hermes() -> Recipe:
    """`ablation` in another tongue: calls in Hermes form to LongVT's tool, at a rate of the protocol's own."""
    own = builtin_protocol("vzoom-brief")
    protocol = replace(
        builtin_protocol("longvt").override(
            name="synthetic-hermes",
            turns={name: getattr(own.turns, name) for name in ("system", "opening", "tool", "error", "budget")}
            | {"last_budget": own.turns.last_budget},
            frame={"label": own.frame.label},  # nothing but labels tells the tiny model what is when
            glance={"rule": "exact", "fps": own.glance.fps, "max_frames": own.glance.max_frames},
            zoom={"rule": "exact", "fps": 2.0, "max_frames": 8},
        ),
        checkpoints=(),
        missing=(),
    )
    recipe = ablation()
    assert recipe.synthetic is not None
    zoom = replace(recipe.zoom, protocol=protocol)
    curriculum = replace(recipe.synthetic.curriculum, name="hermes", zoom=zoom)
    return replace(recipe, name="hermes", zoom=zoom, synthetic=replace(recipe.synthetic, curriculum=curriculum))


def tiny() -> Recipe:
    """The embedded model: videos of 64 s, two families of questions."""
    zoom = ZoomConfig(
        protocol=builtin_protocol("vzoom-brief"),
        min_pixels=_SIDE * _SIDE // 4,
        max_pixels=_SIDE * _SIDE,
        max_new_tokens=96,
        max_total_tokens=2048,
        answer_reserve=96,
    )
    configs = {family: config_for(family) for family in ("which", "count")}
    curriculum = Curriculum(
        name="tiny",
        zoom=zoom,
        families=configs,
        side=_SIDE,
        num_videos=300,
        stages=(
            CurriculumStage("recall", 500, {"recall": 1}, last=0.8),
            CurriculumStage("see", 450, {"captions": 2, "look": 3, "recall": 1, "letters": 1}, last=0.7),
            CurriculumStage(
                "shapes",
                220,
                {"captions": 3, "look": 2, "recall": 0.3, "letters": 0.3, "listing": 2},
                clip_frames=6,
                last=0.7,
            ),
            CurriculumStage(
                "few",
                400,
                {"captions": 1.5, "look": 1.5, "recall": 0.4, "letters": 0.5, "scenes": 3, "reading": 2, "listing": 2},
                muon_lr=0.008,
                vision_factor=0.7,
                glance_frames=10,
                clip_frames=8,
                last=0.7,
            ),
            CurriculumStage(
                "all",
                900,
                {"captions": 1, "look": 0.6, "letters": 0.4, "scenes": 3, "reading": 4, "listing": 2, "answers": 0.6},
                muon_lr=0.007,
                adam_lr=1.5e-3,
                vision_factor=0.5,
                last=0.03,
            ),
        ),
    )
    return Recipe(
        name="tiny",
        base="",
        zoom=zoom,
        synthetic=SyntheticData(
            curriculum,
            configs,
            num_videos={"which": 250, "count": 350},
            questions_per_video=4,
            fewer_zooms=0.2,
            exemplars=2000,
            rl_videos={"which": 40, "count": 280},
        ),
        reflection=ReflectionRecipe(ratio=0.1, rollouts=1),
        sft=_sft(epochs=4),
        grpo=_grpo(steps=60, eval_questions=200),
    )


def _sft(*, epochs: float) -> SFTRecipe:
    return SFTRecipe(
        optimisation=Optimisation(2e-3, muon_learning_rate=0.01, warmup=0.05, schedule="cosine"),
        epochs=epochs,
        batch_size=12,
        micro_batch_size=12,
        gradient_checkpointing=False,
        eval_questions=0,
        save_every=100,
    )


def _grpo(*, steps: int, eval_questions: int = 100) -> GRPORecipe:
    return GRPORecipe(
        optimisation=Optimisation(2e-4, warmup=0.1),
        steps=steps,
        questions_per_step=10,
        num_rollouts=8,
        updates_per_step=1,
        micro_batch_size=2,
        share_prompt=True,
        kl_weight=0.0,
        entropy_weight=0.0,
        # Most questions cannot be answered without a zoom: the bonus is for the others.
        reward=RewardConfig(target_zoom_rate=0.95),
        collapse=CollapseLimits(min_zoom_rate=0.0),  # a policy that was never shown a zoom makes none
        gradient_checkpointing=False,
        max_sessions=80,
        max_refills=1,  # a step with fewer groups is cheaper than looking for more
        eval_questions=eval_questions,
        eval_every=10,
        save_every=25,
    )
