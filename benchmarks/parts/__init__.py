"""Common parts of the benchmarks, which are the files beside this folder."""
