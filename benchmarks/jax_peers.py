"""The peers of `step_cost.py` in jax and diffrax: the same formulas, jitted and matrix-free."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import smesolve as sme
from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes.small_noise_rk4 import SmallNoiseRK4


def jax_peers(
    problem: sme.DropoutProblem, theta0: torch.Tensor, B: int, lr: float, dt: float, steps: int, max_numbers: int
) -> dict[str, Callable[[], object]]:
    """Return the contestants; none where jax or diffrax is not installed."""
    try:
        import diffrax
        import jax
        import jax.numpy as jnp
        import lineax
    except ImportError:
        return {}
    jax.config.update("jax_enable_x64", True)
    m, d, M = problem.width, problem.x.shape[1], problem.noise_dim
    x, y, start = (jnp.asarray(part.numpy()) for part in (problem.x, problem.y[:, 0], theta0))
    n, v, s = x.shape[0], problem.law.variance, problem.law.skew
    first, second = np.triu_indices(m, 1)

    def pulled(theta: jax.Array, cotangent: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
        W, a = theta[: m * d].reshape(m, d), theta[m * d :]
        h = jnp.tanh(W @ x.T)
        c = cotangent(a[:, None] * h, y) / n
        return jnp.concatenate([((a[:, None] * c * (1 - h * h)) @ x).ravel(), (h * c).sum(-1)])

    def drift(theta: jax.Array) -> jax.Array:
        return -pulled(theta, lambda z, y: (z.sum(0) - y) + v * z)

    def pair(normals: jax.Array) -> tuple[jax.Array, jax.Array]:
        u = v**0.5 * normals[:m]
        S = jnp.zeros((m, m)).at[first, second].set(v * normals[m:])
        return S + S.T + jnp.diag(s * u) + u[:, None] + u[None, :], u

    def noise(theta: jax.Array, normals: jax.Array) -> jax.Array:
        S, u = pair(normals)
        return lr**0.5 * pulled(theta, lambda z, y: S @ z - u[:, None] * y)

    def fused(theta: jax.Array, normals: jax.Array) -> jax.Array:
        """Drift and noise by one pullback, as our euler."""
        S, u = pair(lr**0.5 * dt**0.5 * normals)
        S, u = S - dt * (1 + v * jnp.eye(m)), u - dt
        return theta + pulled(theta, lambda z, y: S @ z - u[:, None] * y)

    def fused_weak(theta: jax.Array, normals: jax.Array) -> jax.Array:
        """The same with weak noise, by its factors of rank three."""
        W, a = theta[: m * d].reshape(m, d), theta[m * d :]
        h = jnp.tanh(W @ x.T)
        u, signs, pairs = lr**0.5 * dt**0.5 * v**0.5 * normals[:m], jnp.sign(normals[m : 2 * m]), normals[2 * m]
        pairs = lr**0.5 * dt**0.5 * v * pairs
        R, L, E = jnp.stack([a, a * u, a * signs]) @ h
        R = R - y
        rows, columns = jnp.stack([R, L - dt * R, pairs * E]), jnp.stack([u, jnp.ones(m), signs])
        c = (columns.T @ rows + (s * u - pairs - dt * v)[:, None] * a[:, None] * h) / n
        return theta + jnp.concatenate([((a[:, None] * c * (1 - h * h)) @ x).ravel(), (h * c).sum(-1)])

    def rk4_weak(theta: jax.Array, normals: jax.Array) -> jax.Array:
        """A step of small_noise_rk4 on the equation of order 2, with weak noise; one pullback of noise and b1."""
        k1 = drift(theta)
        middle = theta + dt / 2 * k1
        W, a = middle[: m * d].reshape(m, d), middle[m * d :]
        h = jnp.tanh(W @ x.T)
        slope, residual = 1 - h * h, a @ h - y
        mean = residual + v * a[:, None] * h
        k2 = -jnp.concatenate([((a[:, None] * mean * slope) @ x).ravel(), (h * mean).sum(-1)]) / n
        dW, da = k2[: m * d].reshape(m, d), k2[m * d :]
        dx = dW @ x.T
        dh = slope * dx
        along = (da @ h + a @ dh) + v * (da[:, None] * h + a[:, None] * dh)
        bend = dt * lr / 2  # dt lr b1, b1 = 1/2 Hess L_S b
        u, signs = (lr * dt * v) ** 0.5 * normals[:m], jnp.sign(normals[m : 2 * m])
        pairs = (lr * dt) ** 0.5 * v * normals[2 * m]
        _, L, E = jnp.stack([a, a * u, a * signs]) @ h
        columns, rows = jnp.stack([u, jnp.ones(m), signs]), jnp.stack([residual, L, pairs * E])
        c = columns.T @ rows + (s * u - pairs)[:, None] * a[:, None] * h
        backward = slope * (a[:, None] * c + bend * (da[:, None] * mean + a[:, None] * along))
        backward = backward - 2 * bend * h * dh * a[:, None] * mean
        P = jnp.concatenate([(backward @ x).ravel(), (h * c + bend * (mean * dh + along * h)).sum(-1)]) / n
        k3 = drift(theta + dt / 2 * k2 + P)
        k4 = drift(theta + dt * k3 + P)
        return theta + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4) + P

    def looped(advance: Callable[[jax.Array, jax.Array], jax.Array], numbers: int) -> Callable[[], object]:
        @jax.jit
        def loop(key: jax.Array) -> jax.Array:
            def step(theta: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
                return jax.vmap(advance)(theta, jax.random.normal(key, (B, numbers))), None

            return jax.lax.scan(step, jnp.tile(start, (B, 1)), jax.random.split(key, steps))[0]

        return lambda: loop(jax.random.PRNGKey(0)).block_until_ready()

    class Factor(lineax.AbstractLinearOperator):
        theta: jax.Array

        def mv(self, vector: jax.Array) -> jax.Array:
            return noise(self.theta, vector)

        def as_matrix(self) -> jax.Array:
            raise NotImplementedError

        def transpose(self) -> lineax.AbstractLinearOperator:
            raise NotImplementedError

        def in_structure(self) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((M,), jnp.float64)

        def out_structure(self) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((problem.dim,), jnp.float64)

    for question in (lineax.is_symmetric, lineax.is_diagonal, lineax.is_tridiagonal, lineax.is_lower_triangular,
                     lineax.is_upper_triangular, lineax.is_positive_semidefinite, lineax.is_negative_semidefinite,
                     lineax.has_unit_diagonal):  # fmt: skip
        question.register(Factor, lambda operator: False)
    for answer in (lineax.linearise, lineax.materialise):
        answer.register(Factor, lambda operator: operator)

    def solve(dense: bool) -> Callable[[], object]:
        def diffusion(t: jax.Array, theta: jax.Array, args: object) -> object:
            if not dense:
                return Factor(theta)
            return jax.vmap(noise, in_axes=(None, 0), out_axes=1)(theta, jnp.eye(M))

        @jax.jit
        def run(keys: jax.Array) -> jax.Array:
            def one(key: jax.Array) -> jax.Array:
                path = diffrax.UnsafeBrownianPath((M,), key)
                terms = diffrax.MultiTerm(
                    diffrax.ODETerm(lambda t, theta, args: drift(theta)), diffrax.ControlTerm(diffusion, path)
                )
                return diffrax.diffeqsolve(
                    terms, diffrax.Euler(), 0.0, steps * dt, dt, start, adjoint=diffrax.DirectAdjoint(),
                    max_steps=steps + 1,
                ).ys[-1]  # fmt: skip

            return jax.vmap(one)(keys)

        keys = jax.random.split(jax.random.PRNGKey(0), B)
        return lambda: run(keys).block_until_ready()

    runs = {"jax": looped(fused, M), "jax, weak noise": looped(fused_weak, 2 * m + 1), "diffrax": solve(False)}
    runs["jax, small_noise_rk4, order 2, weak noise"] = looped(rk4_weak, 2 * m + 1)
    if B * problem.dim * M <= max_numbers:
        runs["diffrax dense"] = solve(True)

    # They do compute what we compute.
    normals = np.random.default_rng(0).standard_normal(M)
    expected = problem.noise_product(theta0, torch.from_numpy(normals)).numpy() * lr**0.5
    assert np.abs(np.asarray(noise(start, jnp.asarray(normals))) - expected).max() < 1e-12
    assert np.abs(np.asarray(drift(start)) + problem.mean_gradient(theta0).numpy()).max() < 1e-12
    weak = problem.with_weak_noise()
    for advance, same in ((fused, problem), (fused_weak, weak)):
        normals = np.random.default_rng(0).standard_normal(same.noise_dim)
        scaled = torch.from_numpy((lr * dt) ** 0.5 * normals)
        expected = theta0 + same.linearize(theta0).noisy_mean_gradient(scaled, -dt)
        assert np.abs(np.asarray(advance(start, jnp.asarray(normals))) - expected.numpy()).max() < 1e-12
    normals = np.random.default_rng(0).standard_normal(weak.noise_dim)
    process = PerturbedSDE(sme.ModifiedEquation(weak, lr, 2))
    expected = SmallNoiseRK4().advance(process, 0.0, dt, theta0[None], torch.from_numpy(dt**0.5 * normals)[None])[0]
    assert np.abs(np.asarray(rk4_weak(start, jnp.asarray(normals))) - expected.numpy()).max() < 1e-12
    return runs
