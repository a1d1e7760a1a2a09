"""Measurements of comfyline beside plain clients: both sides run at once and a ratio is printed."""
