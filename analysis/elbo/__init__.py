"""The ELBO and its decomposition."""
