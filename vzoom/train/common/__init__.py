"""What SFT and GRPO share: the model in training, its batches and features, checkpoints on disk, settings of TRL."""
