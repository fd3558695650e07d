"""Fine-tuning in plain torch: one result an epoch, stop and go on after any of them."""
