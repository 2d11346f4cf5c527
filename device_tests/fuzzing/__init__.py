"""Damaged files for every reader of edge-train: an error of its own or a result, nothing else.

`python -m device_tests.fuzzing --count 1000 --seed 1` tries so many inputs per reader. An
input is determined by reader, seed and number, so that a failure can be repeated alone.
"""
