"""fal, and what speaks its queue protocol: jobs at the queue, never at the address that answers without an id."""
