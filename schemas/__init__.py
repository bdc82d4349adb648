"""Bundled pruning schemas: one reviewed JSON file per architecture, named after it ("/" becomes "__")."""
