"""First-party architectures. They register through the entry-point group that any other package uses."""
