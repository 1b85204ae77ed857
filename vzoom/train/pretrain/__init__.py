"""The base of the synthetic recipes: a small model, its tokenizer, and the tasks that teach it to see.

A hub checkpoint brings perception and words along; this model must learn them first. SFT and GRPO are then the same for
both. It is here and not in `vzoom.synthetic` because it is a stage of training, with the optimizer of the others; so
`vzoom.synthetic` needs no torch.
"""
