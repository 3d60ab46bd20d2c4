"""Programs with other sites than a VAE."""
