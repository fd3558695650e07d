"""Finished trials: records, front, figures, and MLflow."""
