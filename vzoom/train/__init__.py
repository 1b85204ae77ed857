"""Training: rewards, rollouts, SFT and GRPO on TRL, the school. `python -m vzoom.train --help`."""
