"""Another Retouch, by its own queue."""
