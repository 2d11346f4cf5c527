"""What Python and native libraries raise where the system gives no more memory or processes.

It can happen in any line, so no part turns it into an error of its own.
"""

import errno

_NUMBERS = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
_WORDS = (  # of the interpreter, the loader of libraries, and C++
    "can't start new thread",
    "failed to map segment from shared object",
    "std::bad_alloc",
)


def is_shortage(error: Exception) -> bool:
    """Whether the system refused memory, a thread, a process or an open file."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NUMBERS
    text = str(error)
    return isinstance(error, MemoryError) or any(words in text for words in _WORDS)


def shortage_text(error: Exception) -> str:
    """The message about it."""
    return (
        "the system gives this process no more memory, threads, processes or open files "
        f"({type(error).__name__}: {error}). Raise the limits that `ulimit -a` and the "
        "container show, or stop other programs."
    )
