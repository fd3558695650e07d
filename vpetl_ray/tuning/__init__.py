"""Ray Tune, Ray Train and Optuna, and nothing that knows a tensor but `trial_runner`."""

import os

# Ray reads it when it is imported, which only this package does. Without it, a thread that asks
# for something after the search has left Ray starts another Ray, beside a process that ends.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
