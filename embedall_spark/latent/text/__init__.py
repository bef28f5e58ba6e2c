"""The text side of a latent space: tokens of items, features, word vectors."""
