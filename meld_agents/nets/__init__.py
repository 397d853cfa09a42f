"""Networks: image encoder and decoder, Gaussian heads, perception, the latent state model."""
