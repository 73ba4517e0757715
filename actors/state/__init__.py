"""What the log says, without I/O and without a clock."""
