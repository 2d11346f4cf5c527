"""Costs of a lowered graph: FLOPs and memory."""
