"""Reward models, one file each, behind `rlhfbench.types.RewardModel`; `gold.py` is for evaluation alone."""
