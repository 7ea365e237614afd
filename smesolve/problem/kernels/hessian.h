// Hessian products of a tile of samples.
#pragma once

#include "path.h"

// The derivative of the mean gradient along a direction, times `bend`; R = A h + b - y, f = A^T (R + v z):
// df = dA^T R + A^T dR + v d(|A_k|^2 h), G += bend (f sigma'' dx + df sigma'), readout += bend d((R + v z) h^T).
template <class R, class Activation>
template <int NV>
OUTLINE void Path<R, Activation>::hessian_cotangents(const Parameters<R>& at, const Parameters<R>& direction,
                                                    R v, R bend, bool add, long tile, const R* h) {
  const long m = f.m, o = f.o;
  pre_activations<NV>(direction, tile, along), clear_beyond<NV>(tile, m, along);
  offset<NV>(at, tile, R(1), Z);
  for (long e = 0; e < o; e++) {
    const Vector<R> bias = filled(direction.bias ? direction.bias[e] : R(0));
    Vector<R> residual[NV], changed[NV];
    UNROLL for (int j = 0; j < NV; j++) residual[j] = load(Z + e * TILE<R> + j * W), changed[j] = bias;
    for (long k = 0; k < m; k++) {
      const R A = at.readout[e * m + k], dA = direction.readout[e * m + k];
      UNROLL for (int j = 0; j < NV; j++) {
        const long i = k * TILE<R> + j * W;
        const Vector<R> value = load(h + i);
        residual[j] += A * value;
        changed[j] += dA * value + A * (slope(h, i, value) * load(along + i));
      }
    }
    UNROLL for (int j = 0; j < NV; j++) {
      store(Z + e * TILE<R> + j * W, residual[j]);
      store(change + e * TILE<R> + j * W, changed[j]);
    }
  }
  for (long k = 0; k < m; k++) {
    Vector<R> value[NV], forward[NV], moved[NV], backward[NV] = {}, backward_along[NV] = {};
    UNROLL for (int j = 0; j < NV; j++) {
      const long i = k * TILE<R> + j * W;
      value[j] = load(h + i), forward[j] = load(along + i);
      moved[j] = slope(h, i, value[j]) * forward[j];  // dh
    }
    for (long e = 0; e < o; e++) {
      const R A = at.readout[e * m + k], dA = direction.readout[e * m + k], vA = v * A, vdA = v * dA;
      R* sums = readout_sums + (e * m + k) * W;
      Vector<R> total = {};
      UNROLL for (int j = 0; j < NV; j++) {
        const Vector<R> mean = load(Z + e * TILE<R> + j * W) + vA * value[j];  // R + v z
        const Vector<R> mean_along = load(change + e * TILE<R> + j * W) + vdA * value[j] + vA * moved[j];
        backward[j] += A * mean;
        backward_along[j] += dA * mean + A * mean_along;
        total += mean * moved[j] + mean_along * value[j];
      }
      store(sums, load(sums) + bend * total);
    }
    UNROLL for (int j = 0; j < NV; j++) {
      const long i = k * TILE<R> + j * W;
      const Vector<R> s = slope(h, i, value[j]), c = curvature(h, i, value[j], s);
      const Vector<R> bent = bend * (backward[j] * (c * forward[j]) + backward_along[j] * s);
      store(G + i, add ? load(G + i) + bent : bent);
    }
  }
  if (f.readout_bias)  // sum_i dR_i; samples beyond n are left out
    for (long e = 0; e < o; e++) {
      const long last = f.n - tile * TILE<R> < NV * W ? f.n - tile * TILE<R> : NV * W;
      for (long i = 0; i < last; i++) bias_gradient[e] += bend * change[e * TILE<R> + i];
    }
}
