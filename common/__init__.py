"""What the commands share; nothing here knows torch."""
