"""The command line: one file per command; prints, reads flags, gives exit codes."""
