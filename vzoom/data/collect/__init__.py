"""Conversations that an expert or a student makes: distillation, reflection, and what was paid for."""
