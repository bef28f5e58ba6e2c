"""Pictures: decoded, and through a pretrained network without its last layer."""
