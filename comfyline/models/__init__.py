"""What is known of RunComfy's models: their schemas, what fits them, and what it would cost."""
