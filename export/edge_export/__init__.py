"""Write training packages: the torch side of edge-train."""
