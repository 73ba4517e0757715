"""What a user declares, and how it is found; what is sent, and what it has to look like."""
