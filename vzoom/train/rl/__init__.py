"""Reinforcement learning: rollouts, rewards, groups, the step up to the loss, TRL."""
