"""The rooms between a hospital's files and a signed-off answer; see docs/architecture.md."""
