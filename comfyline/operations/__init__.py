"""What an operator does; nothing here prints."""
