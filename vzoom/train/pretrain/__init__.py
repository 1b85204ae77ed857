"""The model that trains on one CPU core: its tokenizer, its shape, and the drills that teach it to see.

What a hub checkpoint brings along, perception and words, this model must learn first; the school's stages after that
(SFT, GRPO) are the same for both.
"""
