"""The durable record of what was paid for: the only memory that decides about money."""
