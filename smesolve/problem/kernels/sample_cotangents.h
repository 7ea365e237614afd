// Cotangents of a tile whose samples have masks, or noise, of their own.
#pragma once

#include "path.h"

template <class R, class Activation>
template <int NV>
void Path<R, Activation>::cotangents(PerSample<R>& pair, const Parameters<R>& at, long tile, const R* h) {
  const long left = f.n - tile * TILE<R>, count = left < NV * W ? left : NV * W;
  pair.fill(f.m, tile * TILE<R>, count, NV * W);
  if (pair.terms == 1) {
    cotangents_of<1, NV>(pair, at, tile, count, h);
  } else {
    cotangents_of<3, NV>(pair, at, tile, count, h);
  }
}

template <class R, class Activation>
template <int T, int NV>
OUTLINE void Path<R, Activation>::cotangents_of(PerSample<R>& pair, const Parameters<R>& at, long tile, long count,
                                               const R* h) {
  const long m = f.m, o = f.o;
  R *L = Z + o * TILE<R>, *E = L + o * TILE<R>;
  for (long i = 0; i < m * TILE<R>; i += W) {
    store(pair.masked + i, load(pair.first + i) * load(h + i));
    if (T == 3) store(pair.with_signs + i, load(pair.signs + i) * load(h + i));
  }
  offset<NV>(at, tile, R(1), Z);
  add_product<R, NV>(at.readout, m, o, m, T == 1 ? pair.masked : h, Z);  // R, of all neurons or under the masks
  if (T == 3) {
    std::memset(L, 0, sizeof(R) * 2 * o * TILE<R>);
    add_product<R, NV>(at.readout, m, o, m, pair.masked, L);
    add_product<R, NV>(at.readout, m, o, m, pair.with_signs, E);
    for (long e = 0; e < o; e++)
      for (long i = e * TILE<R>; i < e * TILE<R> + NV * W; i += W) {
        store(L + i, load(L + i) + pair.weight * load(Z + i));  // (5)
        store(E + i, load(pair.pairs + i - e * TILE<R>) * load(E + i));
      }
  }
  if (f.readout_bias)
    for (long e = 0; e < o; e++)
      for (long i = 0; i < count; i++) bias_gradient[e] += (T == 1 ? Z : L)[e * TILE<R> + i];
  for (long k = 0; k < m; k++) {
    Vector<R> backward[NV] = {};
    for (long e = 0; e < o; e++) {
      const R A = at.readout[e * m + k], *z = Z + e * TILE<R>;
      R* sums = readout_sums + (e * m + k) * W;
      Vector<R> total = load(sums);
      UNROLL for (int v = 0; v < NV; v++) {
        const long i = k * TILE<R> + v * W;
        const Vector<R> value = load(h + i);
        Vector<R> c = load(pair.first + i) * load(z + v * W);  // (4), or eta_k R(eta)
        if (T == 3) {
          c += load(L + e * TILE<R> + v * W) + load(pair.signs + i) * load(E + e * TILE<R> + v * W);
          c += (A * load(pair.delta + i)) * value;
        }
        total += value * c;
        backward[v] += A * c;
      }
      store(sums, total);
    }
    UNROLL for (int v = 0; v < NV; v++) {
      const long i = k * TILE<R> + v * W;
      store(G + i, backward[v] * slope(h, i, load(h + i)));
    }
  }
}
