"""What the tests of a real board share: their results as a file, and a judge of its own.

`results` writes what became of every test, `kernel` reads power, temperatures and memory from
the kernel's files without code of edge-train, `watching` does so all the time, `training`
starts runs that are watched.
"""
