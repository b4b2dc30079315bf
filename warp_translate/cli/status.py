"""What the commands leave with; launchers and clusters decide by it whether to start them again."""

import signal

CRASHED = 1
USER_ERROR = 2
PREEMPTED = 42
"""Told to stop and saved: to be started again at any time."""
PEER_LOST = 75
"""Another process was lost: start all of them again, the last checkpoint is whole."""
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + 13
"""What is printed to was closed; 13 is SIGPIPE, which Windows does not have."""
