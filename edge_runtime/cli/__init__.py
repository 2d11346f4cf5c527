"""The command line: one file per command; flags, output, exit codes."""
