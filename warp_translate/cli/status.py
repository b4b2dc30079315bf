"""Exit statuses of the commands; launchers and clusters decide by them whether to restart."""

import signal

CRASHED = 1
USER_ERROR = 2
PREEMPTED = 42
"""Stopped by a signal after saving: restart at any time."""
PEER_LOST = 75
"""Lost another process: restart all; the last checkpoint is complete."""
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + 13
"""Standard output was closed; 13 is SIGPIPE, which Windows does not define."""
