"""From jobs to trained folds, on torch."""
