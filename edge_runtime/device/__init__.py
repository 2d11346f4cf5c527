"""The machine we run on: its facts, its memory, its board profile.

The only part that reads psutil, /proc and /sys. Units: bytes and counts. An unknown fact is
`None`.
"""

from edge_runtime.device.board import Board, BoardSigns, detect_board, known_boards, load_board
from edge_runtime.device.machine import machine_facts
from edge_runtime.device.memory import process_tree_rss_bytes

__all__ = [
    "Board",
    "BoardSigns",
    "detect_board",
    "known_boards",
    "load_board",
    "machine_facts",
    "process_tree_rss_bytes",
]
