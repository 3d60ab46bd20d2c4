"""The task with NumPyro: its `SVI`, with a whole epoch as one jitted function."""

# The peer is an extra, and checked where it is installed.
# pyright: reportMissingImports=false

import math
from typing import Any, ClassVar

from benchmarks.plain_torch import MINIMUM_SCALE
from benchmarks.way import Way


class NumPyroEpoch(Way):
    """`SVI.update` in `lax.scan`, shuffled and binarised within one `jit`.

    Networks are `numpyro.param`s with the starting values of `torch.nn.Linear`, and the KL is in
    closed form, as in the ways beside it.
    """

    title: ClassVar[str] = "NumPyro, the epoch jitted"
    requires: ClassVar[tuple[str, ...]] = ("jax", "numpyro")

    def prepare(self) -> None:
        """Build the SVI. The epoch is compiled at its first call."""
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import SVI, TraceMeanField_ELBO

        pixels, setting = self.images.shape[1], self.setting

        def linear(name: str, x: Any, inputs: int, outputs: int) -> Any:
            bound = 1 / math.sqrt(inputs)

            def initial(key: Any) -> Any:
                of_weight, of_bias = jax.random.split(key)
                return {
                    "weight": jax.random.uniform(of_weight, (inputs, outputs), float, -1, 1)
                    * bound,
                    "bias": jax.random.uniform(of_bias, (outputs,), float, -1, 1) * bound,
                }

            layer: Any = numpyro.param(name, initial)
            return x @ layer["weight"] + layer["bias"]

        def model(x: Any) -> None:
            with numpyro.plate("data", len(x)):
                prior = dist.Normal(jnp.zeros(setting.latent_dim), 1.0).to_event(1)
                z: Any = numpyro.sample("z", prior)
                h = jax.nn.softplus(
                    linear("decoder_hidden", z, setting.latent_dim, setting.hidden)
                )
                logits = linear("decoder_head", h, setting.hidden, pixels)
                numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

        def guide(x: Any) -> None:
            h = jax.nn.softplus(linear("encoder_hidden", x, pixels, setting.hidden))
            outputs = linear("encoder_head", h, setting.hidden, 2 * setting.latent_dim)
            loc, raw_scale = jnp.split(outputs, 2, axis=-1)
            scale = jax.nn.softplus(raw_scale) + MINIMUM_SCALE
            with numpyro.plate("data", len(x)):
                numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

        elbo = TraceMeanField_ELBO(num_particles=setting.num_particles)
        svi = SVI(model, guide, numpyro.optim.Adam(setting.lr), elbo)
        n, size = len(self.images), min(setting.batch_size, len(self.images))

        def step(carry: Any, rows: Any) -> tuple[Any, None]:
            state, key, total, images = carry
            key, of_binarisation = jax.random.split(key)
            p = images[rows].astype(jnp.float32) / 255
            x = jax.random.bernoulli(of_binarisation, p).astype(jnp.float32)
            state, loss = svi.update(state, x)
            return (state, key, total + loss, images), None

        def epoch(state: Any, key: Any, images: Any) -> tuple[Any, Any, Any]:
            key, of_order = jax.random.split(key)
            order = jax.random.permutation(of_order, n)
            whole = n - n % size
            carry = (state, key, 0.0, images)
            carry, _ = jax.lax.scan(step, carry, order[:whole].reshape(-1, size))
            if whole < n:
                carry, _ = step(carry, order[whole:])
            return carry[:3]

        self._epoch = jax.jit(epoch)
        self._images = jnp.asarray(self.images.numpy())
        of_state, self._key = jax.random.split(jax.random.key(setting.seed))
        self._state: Any = svi.init(of_state, jnp.zeros((size, pixels)))

    def run_epoch(self) -> float | None:
        """A shuffled pass. Reading the loss waits for its end."""
        self._state, self._key, total = self._epoch(self._state, self._key, self._images)
        return float(total) / len(self.images)
