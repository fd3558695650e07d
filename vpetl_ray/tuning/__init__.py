"""Ray Tune, Ray Train and Optuna, and nothing that knows a tensor but `trial_runner`."""
