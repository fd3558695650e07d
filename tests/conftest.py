"""What holds for every test."""

import signal
import sys
from pathlib import Path

from hypothesis import settings

# What tests of several folders share: the examples of every method, servers.
sys.path.insert(0, str(Path(__file__).parent))

# Started in the background, a shell has all that comes of it ignore Ctrl-C, the searches, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines are shared: how long an example takes says nothing about it.
settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")
