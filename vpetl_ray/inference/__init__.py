"""A trained model in use: loaded, asked, exported. No Ray, no MLflow, no search."""
