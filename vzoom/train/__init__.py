"""Training: `python -m vzoom.train sft tiny --out DIR`."""
