"""Programs of other structure than a VAE; each file is a model file to read and copy."""
