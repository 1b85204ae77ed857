"""Predictions -> verdicts, failures, figures with their intervals, costs."""
