"""New versions of a table that others read: rotated onto the version before, measured, published or held back."""
