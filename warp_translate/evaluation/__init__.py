"""Metrics, evaluations, cost and reports."""
