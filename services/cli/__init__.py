"""The command line hilum: one module per command, nothing heavy imported before its command runs."""
