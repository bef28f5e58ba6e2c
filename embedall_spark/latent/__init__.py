"""Two kinds of vectors brought into one latent space."""
