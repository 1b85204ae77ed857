"""Figures about models, with what can be said of their uncertainty."""
