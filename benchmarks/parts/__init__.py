"""What the benchmarks share. The questions themselves are the files beside this folder."""
