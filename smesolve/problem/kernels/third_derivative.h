// Third derivatives of L_S along two directions p and q.
#pragma once

#include "path.h"

// With subscripts for derivatives, dx the tangents of the pre-activations x, and t the third derivative of the activation:
//
//   h_p = s dx_p,  h_pq = c dx_p dx_q,  R_p = A_p h + A h_p + b_p,  R_pq = A_p h_q + A_q h_p + A h_pq,
//   M = R + v z,  B = A^T M,  B_p = A_p^T M + A^T M_p,  B_pq = A_p^T M_q + A_q^T M_p + A^T M_pq,
//   G = B_pq s + B_p c dx_q + B_q c dx_p + B t dx_p dx_q,   readout: M_pq h + M_p h_q + M_q h_p + M h_pq,   bias: R_pq.
template <class R, class Activation>
template <int NV>
OUTLINE void Path<R, Activation>::third_cotangents(const Parameters<R>& at, const Parameters<R>& p,
                                                  const Parameters<R>& q, R v, long tile, const R* h, R* work) {
  const long m = f.m, o = f.o;
  R *dp = work, *dq = dp + m * TILE<R>, *pre = dq + m * TILE<R>;
  R *Rp = pre + m * TILE<R>, *Rq = Rp + o * TILE<R>, *Rpq = Rq + o * TILE<R>;
  pre_activations<NV>(p, tile, dp), clear_beyond<NV>(tile, m, dp);
  pre_activations<NV>(q, tile, dq), clear_beyond<NV>(tile, m, dq);
  if (Activation::third_from_x) pre_activations<NV>(at, tile, pre), clear_beyond<NV>(tile, m, pre);
  offset<NV>(at, tile, R(1), Z);
  for (long e = 0; e < o; e++)
    UNROLL for (int j = 0; j < NV; j++) {
      const long i = e * TILE<R> + j * W;
      Vector<R> residual = load(Z + i), of_p = filled(p.bias ? p.bias[e] : R(0)),
                of_q = filled(q.bias ? q.bias[e] : R(0)), of_both = {};
      for (long k = 0; k < m; k++) {
        const R A = at.readout[e * m + k], Ap = p.readout[e * m + k], Aq = q.readout[e * m + k];
        const long n = k * TILE<R> + j * W;
        const Vector<R> value = load(h + n), s = slope(h, n, value), c = curvature(h, n, value, s);
        const Vector<R> hp = s * load(dp + n), hq = s * load(dq + n), hpq = c * load(dp + n) * load(dq + n);
        residual += A * value;
        of_p += Ap * value + A * hp;
        of_q += Aq * value + A * hq;
        of_both += Ap * hq + Aq * hp + A * hpq;
      }
      store(Z + i, residual), store(Rp + i, of_p), store(Rq + i, of_q), store(Rpq + i, of_both);
    }
  for (long k = 0; k < m; k++)
    UNROLL for (int j = 0; j < NV; j++) {
      const long n = k * TILE<R> + j * W;
      const Vector<R> value = load(h + n), s = slope(h, n, value), c = curvature(h, n, value, s);
      const Vector<R> xp = load(dp + n), xq = load(dq + n), hp = s * xp, hq = s * xq, hpq = c * xp * xq;
      const Vector<R> t = Activation::template third<R>(load(pre + n), value, s, c);
      Vector<R> B = {}, Bp = {}, Bq = {}, Bpq = {};
      for (long e = 0; e < o; e++) {
        const R A = at.readout[e * m + k], Ap = p.readout[e * m + k], Aq = q.readout[e * m + k];
        const long i = e * TILE<R> + j * W;
        const Vector<R> M = load(Z + i) + v * A * value, Mp = load(Rp + i) + v * (Ap * value + A * hp);
        const Vector<R> Mq = load(Rq + i) + v * (Aq * value + A * hq);
        const Vector<R> Mpq = load(Rpq + i) + v * (Ap * hq + Aq * hp + A * hpq);
        B += A * M;
        Bp += Ap * M + A * Mp;
        Bq += Aq * M + A * Mq;
        Bpq += Ap * Mq + Aq * Mp + A * Mpq;
        R* sums = readout_sums + (e * m + k) * W;
        store(sums, load(sums) + Mpq * value + Mp * hq + Mq * hp + M * hpq);
      }
      store(G + n, Bpq * s + Bp * c * xq + Bq * c * xp + B * t * xp * xq);
    }
  if (f.readout_bias)
    for (long e = 0; e < o; e++) {
      const long last = f.n - tile * TILE<R> < NV * W ? f.n - tile * TILE<R> : NV * W;
      for (long i = 0; i < last; i++) bias_gradient[e] += Rpq[e * TILE<R> + i];
    }
}

template <class R, class Activation>
OUTLINE void Path<R, Activation>::third_derivative(const R* theta, const R* p, const R* q, R v, bool stored, R scale,
                                                  R* out) {
  clear();
  Array<R> work(3 * (f.m + f.o) * TILE<R>);
  const Parameters<R> at(f, theta), along_p(f, p), along_q(f, q);
  each_tile([&](auto vectors, long tile) {
    constexpr int NV = decltype(vectors)::count;
    R* h = tile_of(tile, stored);
    if (!stored) features<NV>(at, tile, h);
    third_cotangents<NV>(at, along_p, along_q, v, tile, h, work);
    pull_back<NV>(tile);
  });
  write(scale, out);
}
