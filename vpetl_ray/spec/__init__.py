"""The search space file: YAML text to a checked spec, and every mistake as a sentence."""
