"""Drawing text from a model: latent cache, batching, sampling."""
