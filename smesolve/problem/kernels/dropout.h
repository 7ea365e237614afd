// Gradients of a two-layer network under dropout, one path at a time, in one pass over tiles of samples.
//
// Equation numbers (1) to (5) are those of smesolve/problem/dropout_noise.py: everything is J of the cotangents of a
// pair (S, u). S is held as sum_j P_j Q_j^T + diag(delta), with u = sum_j P_j q_j (`LowRank`), or as a matrix (`Full`).
#pragma once

#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

#include "activations.h"
#include "tiles.h"

// Memory that begins at a cache line.
template <class R> class Array {
 public:
  explicit Array(long count) : memory_(count + 64 / sizeof(R) + 1) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    data_ = memory_.data() + (-address & 63) / sizeof(R);
  }
  Array(const Array&) = delete;
  operator R*() { return data_; }
  operator const R*() const { return data_; }

 private:
  std::vector<R> memory_;
  R* data_;
};

// Sizes and data of a problem; the layout of data is that of the tiles.
struct Net {
  long n, d, m, o;  // samples, inputs, neurons under dropout, outputs
  bool hidden_bias, readout_bias;
  long dim() const { return m * d + (hidden_bias ? m : 0) + o * m + (readout_bias ? o : 0); }
};

template <class R> struct Data : Net {
  std::vector<long> used, unused;  // inputs; the unused ones are 0 for all samples, as at the borders of images
  long inputs, tiles;              // number of used ones
  long columns, neurons;           // these and m, filled up to whole vectors
  Array<R> by_tile;                // x (tiles, inputs, TILE)
  Array<R> by_sample;              // x (tiles TILE, columns); samples beyond n are 0
  Array<R> targets;                // y (o, tiles TILE)
  Array<R> target_sums;            // (o)

  Data(const Net& net, const R* x, const R* y)
      : Net(net), used(chosen(net, x, true)), unused(chosen(net, x, false)), inputs(used.size()),
        tiles((n + TILE<R> - 1) / TILE<R>), columns(whole(inputs)), neurons(whole(m)),
        by_tile(tiles * inputs * TILE<R>), by_sample(tiles * TILE<R> * columns), targets(o * tiles * TILE<R>),
        target_sums(o) {
    for (long i = 0; i < n; i++)
      for (long j = 0; j < inputs; j++) {
        by_tile[((i / TILE<R>)*inputs + j) * TILE<R> + i % TILE<R>] = x[i * d + used[j]];
        by_sample[i * columns + j] = x[i * d + used[j]];
      }
    for (long k = 0; k < o; k++)
      for (long i = 0; i < n; i++) {
        targets[k * tiles * TILE<R> + i] = y[k * n + i];
        target_sums[k] += y[k * n + i];
      }
  }
  // The products of a neuron's unused weights with their inputs: 0, or NaN where a weight is not finite
  R left_out(const R* weights) const {
    R total = 0;
    for (long j : unused) total += 0 * weights[j];
    return total;
  }
  // The derivatives with respect to a neuron's weights (d) from those of the used ones
  void spread(const R* derivatives, R scale, R* out) const {
    for (long j : unused) out[j] = 0;
    for (long j = 0; j < inputs; j++) out[unused.empty() ? j : used[j]] = scale * derivatives[j];
  }

 private:
  static std::vector<long> chosen(const Net& net, const R* x, bool used) {
    std::vector<long> found;
    for (long j = 0; j < net.d; j++) {
      bool zero = true;
      for (long i = 0; i < net.n && zero; i++) zero = x[i * net.d + j] == 0;
      if (zero != used) found.push_back(j);
    }
    return found;
  }
  static long whole(long count) { return (count + Lanes<R>::count - 1) / Lanes<R>::count * Lanes<R>::count; }
};

struct Moments {
  double variance, skew, chi;  // v, s, and w, the root of E chi^2
};

template <class R> struct Parameters {
  const R *weight, *hidden_bias, *readout, *bias;  // (m, d), (m), (o, m), (o)
  Parameters(const Net& net, const R* theta) : weight(theta) {
    const R* next = theta + net.m * net.d;
    hidden_bias = net.hidden_bias ? next : nullptr;
    readout = next + (net.hidden_bias ? net.m : 0);
    bias = net.readout_bias ? readout + net.o * net.m : nullptr;
  }
};

// S = sum_j P_j Q_j^T + diag(delta), u = sum_j P_j q_j; the bias has the cotangent sum_j p_j R_j with
// R_j = sum_r Q_jr z_r + q_j (b - y).
template <class R> struct LowRank {
  int terms = 1;
  Array<R> P, Q, delta;  // (3, m), (3, m), (m)
  R q[3] = {1, 0, 0}, p[3] = {0, 0, 0};
  explicit LowRank(long m) : P(3 * m), Q(3 * m), delta(m) {}

  void gradient(long m, const R* mask) {  // c_k = eta_k R(eta)
    terms = 1, p[0] = 1;
    for (long k = 0; k < m; k++) P[k] = Q[k] = mask[k], delta[k] = 0;
  }
  void mean(long m, const Moments& law) {  // S = 1 1^T + v I, u = 1
    terms = 1, p[0] = 1;
    for (long k = 0; k < m; k++) P[k] = Q[k] = 1, delta[k] = R(law.variance);
  }
  // (4) with (5); all normals times `scale`
  void noise(long m, const Moments& law, const R* normals, R scale, R weight) {
    const R root = std::sqrt(R(law.variance)) * scale, *signs = normals + m, *omega = normals + 2 * m + 1;
    const R pairs = R(law.variance) * scale * normals[2 * m];  // v g
    terms = 3, p[0] = weight, p[1] = 1, p[2] = 0;
    for (long k = 0; k < m; k++) {
      const R u = root * normals[k], e = (signs[k] > 0) - (signs[k] < 0);
      Q[k] = 1, P[k] = u + weight;          // R
      Q[m + k] = u, P[m + k] = 1;           // L
      Q[2 * m + k] = e, P[2 * m + k] = pairs * e;  // v g e_k E
      delta[k] = R(law.skew) * u - pairs + weight * R(law.variance);
      if (law.chi != 0) delta[k] += R(law.chi) * scale * omega[k];
    }
  }
};

template <class R> struct Full {
  Array<R> S, u;  // (m, m), (m)
  R weight = 0;   // of the mean gradient, for the bias
  explicit Full(long m) : S(m * m), u(m) {}

  // (2) with (5); all normals times `scale`
  void noise(long m, const Moments& law, const R* normals, R scale, R mean) {
    const R root = std::sqrt(R(law.variance)) * scale, v = R(law.variance) * scale;
    const R *pairs = normals + m, *omega = normals + m + m * (m - 1) / 2;
    weight = mean;
    for (long k = 0; k < m; k++) u[k] = root * normals[k];
    for (long k = 0; k < m; k++) {
      R* row = S + k * m;
      row[k] = R(law.skew) * u[k] + mean * R(law.variance) + (u[k] + mean) + u[k];
      if (law.chi != 0) row[k] += R(law.chi) * scale * omega[k];
      for (long r = k + 1; r < m; r++) row[r] = v * pairs[r - k - 1] + (u[k] + mean) + u[r];
      pairs += m - k - 1;
    }
    for (long k = 1; k < m; k++)
      for (long r = 0; r < k; r++) S[k * m + r] = S[r * m + k];
    for (long k = 0; k < m; k++) u[k] += mean;
  }
};
