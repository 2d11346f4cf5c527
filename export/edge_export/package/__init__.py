"""Writes and verifies a training package."""
