"""Video frames to the patches that a Qwen vision tower reads, equal to Hugging Face's PIL pipeline bit for bit."""

from .op import frames_to_patches, resize_frames, resize_on_device
from .order import pillow_step
from .reference import Step

__all__ = ["Step", "frames_to_patches", "pillow_step", "resize_frames", "resize_on_device"]
