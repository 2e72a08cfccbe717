"""From saved predictions to tables, figures and proofs: this folder reads files and trains nothing."""
