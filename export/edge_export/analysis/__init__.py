"""What a lowered graph costs: FLOPs and memory."""
