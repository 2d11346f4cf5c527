"""Artifacts of the official on-device training API."""
