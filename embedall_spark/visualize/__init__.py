"""Pictures of vectors."""
