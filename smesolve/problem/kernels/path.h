// One path: features, cotangents of pairs, the Hessian product, and their pullback; losses.
#pragma once

#include "per_sample.h"

template <class R, class Activation> class Path {
 public:
  static constexpr int W = Lanes<R>::count;
  static constexpr bool GIVEN = std::is_same_v<Activation, Given>;
  static constexpr int ARRAYS = Activation::from_value ? 1 : 3;  // h, or h, sigma'(x) and sigma''(x)

  explicit Path(const Data<R>& data)
      : f(data), kept(data.tiles * ARRAYS * data.m * TILE<R>), one_tile(ARRAYS * data.m * TILE<R>), G(data.m * TILE<R>),
        along(data.m * TILE<R>), Z(3 * data.o * TILE<R>), change(data.o * TILE<R>), QA(3 * data.o * data.m),
        SA(data.m * data.m), Au(data.o * data.m), weight_sums(data.m * data.columns), hidden_sums(data.m * W),
        readout_sums(data.o * data.m * W), feature_sums(data.m * W), transposed(TILE<R> * data.neurons),
        squares(data.m * data.neurons), offset_sums(data.o * data.neurons), readout_gradient(data.o * data.m),
        bias_gradient(data.o), low_rank(data.m), full(data.m) {}

  const Data<R>& f;

  // Features of all samples at theta, for the methods with `stored`.
  OUTLINE void keep(const R* theta) {
    const Parameters<R> at(f, theta);
    each_tile([&](auto vectors, long tile) { features<decltype(vectors)::count>(at, tile, tile_of(tile, true)); });
  }

  // out = scale J(pair)
  template <class Pair> OUTLINE void pull(Pair& pair, const R* theta, bool stored, R scale, R* out) {
    begin(pair, theta);
    const Parameters<R> at(f, theta);
    each_tile([&](auto vectors, long tile) {
      constexpr int NV = decltype(vectors)::count;
      R* h = tile_of(tile, stored);
      if (!stored) features<NV>(at, tile, h);
      cotangents<NV>(pair, at, tile, h);
      pull_back<NV>(tile);
    });
    end(pair, at);
    write(scale, out);
  }

  // out = scale (J(pair) + bend Hess L_S(theta) vector), the features kept
  template <class Pair>
  OUTLINE void pull_and_bend(Pair& pair, const R* theta, const R* vector, R v, R bend, R scale, R* out) {
    begin(pair, theta);
    const Parameters<R> at(f, theta), direction(f, vector);
    each_tile([&](auto vectors, long tile) {
      constexpr int NV = decltype(vectors)::count;
      R* h = tile_of(tile, true);
      cotangents<NV>(pair, at, tile, h);
      hessian_cotangents<NV>(at, direction, v, bend, true, tile, h);
      pull_back<NV>(tile);
    });
    end(pair, at);
    write(scale, out);
  }

  // out = scale Hess L_S(theta) vector
  OUTLINE void hessian(const R* theta, const R* vector, R v, bool stored, R scale, R* out) {
    clear();
    const Parameters<R> at(f, theta), direction(f, vector);
    each_tile([&](auto vectors, long tile) {
      constexpr int NV = decltype(vectors)::count;
      R* h = tile_of(tile, stored);
      if (!stored) features<NV>(at, tile, h);
      hessian_cotangents<NV>(at, direction, v, R(1), false, tile, h);
      pull_back<NV>(tile);
    });
    write(scale, out);
  }

  // out = scale D^3 L_S(theta)[p, q]: third_derivative.h
  void third_derivative(const R* theta, const R* p, const R* q, R v, bool stored, R scale, R* out);

  // sum_i |R_i|^2 + v sum_ik |z_ik|^2
  OUTLINE R squared_errors(const R* theta, R v) {
    const Parameters<R> at(f, theta);
    Vector<R> total = {};
    each_tile([&](auto vectors, long tile) {
      constexpr int NV = decltype(vectors)::count;
      R* h = tile_of(tile, false);
      features<NV>(at, tile, h);
      offset<NV>(at, tile, R(1), Z);
      add_product<R, NV>(at.readout, f.m, f.o, f.m, h, Z);
      clear_beyond<NV>(tile, f.o, Z);
      for (long e = 0; e < f.o; e++)
        UNROLL for (int j = 0; j < NV; j++) {
          const Vector<R> residual = load(Z + e * TILE<R> + j * W);
          total += residual * residual;
        }
      for (long k = 0; k < f.m && v != 0; k++) {
        R weight = 0;
        for (long e = 0; e < f.o; e++) weight += at.readout[e * f.m + k] * at.readout[e * f.m + k];
        UNROLL for (int j = 0; j < NV; j++) {
          const Vector<R> value = load(h + k * TILE<R> + j * W);
          total += v * weight * (value * value);
        }
      }
    });
    R lanes[W];
    store(lanes, total);
    return sum(lanes);
  }

 private:
  Array<R> kept, one_tile;    // (tiles, ARRAYS, m, TILE), (ARRAYS, m, TILE)
  Array<R> G, along;          // cotangents of x, tangents of x: (m, TILE)
  Array<R> Z, change;         // R_j (terms o, TILE), dR (o, TILE)
  Array<R> QA, SA, Au;        // (terms o, m), (m, m), (o, m)
  Array<R> weight_sums;       // (m, columns)
  Array<R> hidden_sums, readout_sums, feature_sums;  // (m, W), (o, m, W), (m, W): over samples, by lane
  Array<R> transposed, squares, offset_sums;         // h^T (TILE, neurons), h h^T (m, neurons), (b - y) h^T
  Array<R> readout_gradient, bias_gradient;          // (o, m), (o)
  std::unique_ptr<PerSample<R>> each_sample;         // made when it is needed

 public:
  LowRank<R> low_rank;
  Full<R> full;
  const R* given = nullptr;  // for the activation `Given`: features (m, n)
  R* given_back = nullptr;   // where their cotangents go (m, n), times a factor
  R given_scale = 1;

  PerSample<R>& per_sample() {
    if (!each_sample) each_sample = std::make_unique<PerSample<R>>(f.m);
    return *each_sample;
  }

 private:
  template <int N> struct Vectors {
    static constexpr int count = N;
  };

  template <class Function> void each_tile(Function function) {
    for (long tile = 0; tile < f.tiles; tile++) {
      const long left = f.n - tile * TILE<R>;
      if (left <= W) {
        function(Vectors<1>{}, tile);
      } else if (left <= 2 * W) {
        function(Vectors<2>{}, tile);
      } else {
        function(Vectors<TILE_VECTORS>{}, tile);
      }
    }
  }
  R* tile_of(long tile, bool stored) { return stored ? kept + tile * ARRAYS * f.m * TILE<R> : one_tile; }
  const R* targets_of(long output, long tile) const { return f.targets + (output * f.tiles + tile) * TILE<R>; }

  // Activations ----------------------------------------------------------------------------------------------------
  // Pre-activations x of a tile at some parameters, or their tangents along a direction: (m, TILE)
  template <int NV> void pre_activations(const Parameters<R>& at, long tile, R* out) {
    for (long k = 0; k < f.m; k++) {
      R start = at.hidden_bias ? at.hidden_bias[k] : R(0);
      if (tile == 0) start += f.left_out(at.weight + k * f.d);  // NaN reaches all sums over samples from one tile
      for (int v = 0; v < NV; v++) store(out + k * TILE<R> + v * W, filled(start));
    }
    const R* x = f.by_tile + tile * f.inputs * TILE<R>;
    if (f.unused.empty()) {
      add_product<R, NV>(at.weight, f.d, f.m, f.d, x, out);
    } else {
      add_product<R, NV>(at.weight, f.d, f.m, f.inputs, x, out, Listed{f.used.data()});
    }
  }
  template <int NV> OUTLINE void features(const Parameters<R>& at, long tile, R* h) {
    if constexpr (GIVEN) {
      const long begin = tile * TILE<R>, count = f.n - begin < NV * W ? f.n - begin : NV * W;
      for (long k = 0; k < f.m; k++) std::memcpy(h + k * TILE<R>, given + k * f.n + begin, count * sizeof(R));
      return clear_beyond<NV>(tile, f.m, h);
    }
    pre_activations<NV>(at, tile, h);
    R *s = h + f.m * TILE<R>, *c = s + f.m * TILE<R>;
    for (long k = 0; k < f.m; k++)
      UNROLL for (int v = 0; v < NV; v++) {
        const long i = k * TILE<R> + v * W;
        if constexpr (Activation::from_value) {
          store(h + i, Activation::template value<R>(load(h + i)));
        } else {
          Vector<R> value, slope, curvature;
          Activation::template all<R>(load(h + i), value, slope, curvature);
          store(h + i, value), store(s + i, slope), store(c + i, curvature);
        }
      }
    clear_beyond<NV>(tile, ARRAYS * f.m, h);
  }
  // Samples beyond n have no features.
  template <int NV> void clear_beyond(long tile, long rows, R* h) const {
    const long end = f.n - tile * TILE<R>;
    if (end < NV * W)
      for (long k = 0; k < rows; k++)
        for (long i = end; i < NV * W; i++) h[k * TILE<R> + i] = 0;
  }
  INLINE_METHOD Vector<R> slope(const R* h, long i, Vector<R> value) const {
    if constexpr (Activation::from_value) return Activation::template slope<R>(value);
    return load(h + f.m * TILE<R> + i);
  }
  INLINE_METHOD Vector<R> curvature(const R* h, long i, Vector<R> value, Vector<R> slope) const {
    if constexpr (Activation::from_value) return Activation::template curvature<R>(value, slope);
    return load(h + 2 * f.m * TILE<R> + i);
  }

  // Cotangents of a tile: G, and sums for readout and bias -----------------------------------------------------------
  void clear() {
    const long m = f.m, o = f.o;
    std::memset(weight_sums, 0, sizeof(R) * m * f.columns);
    std::memset(readout_sums, 0, sizeof(R) * o * m * W);
    std::memset(readout_gradient, 0, sizeof(R) * o * m);
    std::memset(bias_gradient, 0, sizeof(R) * o);
    if (f.hidden_bias) std::memset(hidden_sums, 0, sizeof(R) * m * W);
    if (f.readout_bias) std::memset(feature_sums, 0, sizeof(R) * m * W);
  }
  void begin(const LowRank<R>& pair, const R* theta) {
    clear();
    const Parameters<R> at(f, theta);
    for (int t = 0; t < pair.terms; t++)
      for (long e = 0; e < f.o; e++)
        for (long k = 0; k < f.m; k++) QA[(t * f.o + e) * f.m + k] = pair.Q[t * f.m + k] * at.readout[e * f.m + k];
  }
  void begin(const PerSample<R>&, const R*) { clear(); }
  void begin(const Full<R>& pair, const R* theta) {
    clear();
    const long m = f.m, o = f.o;
    const R* A = Parameters<R>(f, theta).readout;
    if (o == 1) {
      for (long k = 0; k < m; k++)
        for (long r = 0; r < m; r++) SA[k * m + r] = pair.S[k * m + r] * A[r];
      return;
    }
    std::memset(squares, 0, sizeof(R) * m * f.neurons);
    std::memset(offset_sums, 0, sizeof(R) * o * f.neurons);
    for (long k = 0; k < m; k++)
      for (long r = 0; r <= k; r++) {
        R product = 0;
        for (long e = 0; e < o; e++) product += A[e * m + k] * A[e * m + r];
        SA[k * m + r] = SA[r * m + k] = pair.S[k * m + r] * product;
      }
    for (long e = 0; e < o; e++)
      for (long k = 0; k < m; k++) Au[e * m + k] = A[e * m + k] * pair.u[k];
  }

  // q (b - y) of each output into Z
  template <int NV> void offset(const Parameters<R>& at, long tile, R q, R* z) {
    for (long e = 0; e < f.o; e++) {
      const R b = at.bias ? at.bias[e] : R(0), *y = targets_of(e, tile);
      UNROLL for (int v = 0; v < NV; v++) store(z + e * TILE<R> + v * W, q * (b - load(y + v * W)));
    }
  }

  // sum_i h_ki, for the bias
  template <int NV> void add_features(const R* h) {
    if (!f.readout_bias) return;
    for (long k = 0; k < f.m; k++) {
      Vector<R> total = load(feature_sums + k * W);
      UNROLL for (int v = 0; v < NV; v++) total += load(h + k * TILE<R> + v * W);
      store(feature_sums + k * W, total);
    }
  }

  template <int NV> void cotangents(const LowRank<R>& pair, const Parameters<R>& at, long tile, const R* h) {
    if (pair.terms == 1) cotangents_of<1, NV>(pair, at, tile, h);
    if (pair.terms == 3) cotangents_of<3, NV>(pair, at, tile, h);
  }
  template <int T, int NV>
  OUTLINE void cotangents_of(const LowRank<R>& pair, const Parameters<R>& at, long tile, const R* h) {
    const long m = f.m, o = f.o;
    for (int t = 0; t < T; t++) offset<NV>(at, tile, pair.q[t], Z + t * o * TILE<R>);
    add_product<R, NV>(QA, m, T * o, m, h, Z);  // R_j
    for (long k = 0; k < m; k++) {
      Vector<R> value[NV], backward[NV] = {};
      R P[T];
      UNROLL for (int t = 0; t < T; t++) P[t] = pair.P[t * m + k];
      UNROLL for (int v = 0; v < NV; v++) value[v] = load(h + k * TILE<R> + v * W);
      for (long e = 0; e < o; e++) {
        const R A = at.readout[e * m + k], diagonal = pair.delta[k] * A, *z = Z + e * TILE<R>;
        R* sums = readout_sums + (e * m + k) * W;
        Vector<R> total = load(sums);
        UNROLL for (int v = 0; v < NV; v++) {
          Vector<R> c = diagonal * value[v];  // (1), term by term
          UNROLL for (int t = 0; t < T; t++) c += P[t] * load(z + t * o * TILE<R> + v * W);
          total += value[v] * c;
          backward[v] += A * c;
        }
        store(sums, total);
      }
      UNROLL for (int v = 0; v < NV; v++) {
        const long i = k * TILE<R> + v * W;
        store(G + i, backward[v] * slope(h, i, value[v]));
      }
    }
    add_features<NV>(h);
  }

  template <int NV> OUTLINE void cotangents(const Full<R>& pair, const Parameters<R>& at, long tile, const R* h) {
    const long m = f.m, o = f.o;
    offset<NV>(at, tile, R(1), Z);
    for (long k = 0; k < m; k++)
      UNROLL for (int v = 0; v < NV; v++) {
        Vector<R> start = {};
        if (o == 1) {
          start = pair.u[k] * load(Z + v * W);
        } else {
          for (long e = 0; e < o; e++) start += Au[e * m + k] * load(Z + e * TILE<R> + v * W);
        }
        store(G + k * TILE<R> + v * W, start);
      }
    add_product<R, NV>(SA, m, m, m, h, G);
    for (long k = 0; k < m; k++) {
      Vector<R> total = load(readout_sums + k * W);
      UNROLL for (int v = 0; v < NV; v++) {
        const long i = k * TILE<R> + v * W;
        const Vector<R> value = load(h + i);
        Vector<R> backward = load(G + i);
        if (o == 1) {
          total += value * backward;
          backward *= at.readout[k];
        }
        store(G + i, backward * slope(h, i, value));
      }
      if (o == 1) store(readout_sums + k * W, total);
    }
    if (o > 1) {
      for (int i = 0; i < NV * W; i++)
        for (long k = 0; k < m; k++) transposed[i * f.neurons + k] = h[k * TILE<R> + i];
      add_outer<R>(h, m, NV * W, transposed, squares, f.neurons);
      add_outer<R>(Z, o, NV * W, transposed, offset_sums, f.neurons);
    }
    add_features<NV>(h);
  }

  // The same for masks or noise that each sample has for itself: sample_cotangents.h.
  template <int NV> void cotangents(PerSample<R>& pair, const Parameters<R>& at, long tile, const R* h);
  template <int T, int NV>
  void cotangents_of(PerSample<R>& pair, const Parameters<R>& at, long tile, long count, const R* h);

  // Cotangents of D^3 L_S[p, q]: third_derivative.h.
  template <int NV> void third_cotangents(const Parameters<R>& at, const Parameters<R>& p, const Parameters<R>& q, R v,
                                          long tile, const R* h, R* work);
  // The derivative of the mean gradient along a direction, times `bend`: hessian.h.
  template <int NV>
  void hessian_cotangents(const Parameters<R>& at, const Parameters<R>& direction, R v, R bend, bool add, long tile,
                          const R* h);

  template <int NV> void pull_back(long tile) {
    if constexpr (GIVEN) {
      if (!given_back) return;
      const long begin = tile * TILE<R>, count = f.n - begin < NV * W ? f.n - begin : NV * W;
      for (long k = 0; k < f.m; k++)
        for (long i = 0; i < count; i++) given_back[k * f.n + begin + i] = given_scale * G[k * TILE<R> + i];
      return;
    }
    add_outer<R>(G, f.m, NV * W, f.by_sample + tile * TILE<R> * f.columns, weight_sums, f.columns);
    if (!f.hidden_bias) return;
    clear_beyond<NV>(tile, f.m, G);
    for (long k = 0; k < f.m; k++) {
      Vector<R> total = load(hidden_sums + k * W);
      UNROLL for (int v = 0; v < NV; v++) total += load(G + k * TILE<R> + v * W);
      store(hidden_sums + k * W, total);
    }
  }

  // After all tiles -----------------------------------------------------------------------------------------------
  void end(const LowRank<R>& pair, const Parameters<R>& at) {
    if (!f.readout_bias) return;
    for (int t = 0; t < pair.terms; t++)
      for (long e = 0; e < f.o; e++) {
        R total = pair.q[t] * (R(f.n) * at.bias[e] - f.target_sums[e]);
        for (long k = 0; k < f.m; k++) total += QA[(t * f.o + e) * f.m + k] * sum(feature_sums + k * W);
        bias_gradient[e] += pair.p[t] * total;
      }
  }
  void end(const PerSample<R>&, const Parameters<R>&) {}
  void end(const Full<R>& pair, const Parameters<R>& at) {
    const long m = f.m, o = f.o;
    if (o > 1)
      for (long e = 0; e < o; e++)
        for (long k = 0; k < m; k++) {
          R total = pair.u[k] * offset_sums[e * f.neurons + k];
          for (long r = 0; r < m; r++) total += at.readout[e * m + r] * pair.S[r * m + k] * squares[r * f.neurons + k];
          readout_gradient[e * m + k] += total;
        }
    if (f.readout_bias)
      for (long e = 0; e < o; e++) {
        R total = pair.weight * (R(f.n) * at.bias[e] - f.target_sums[e]);
        for (long k = 0; k < m; k++) total += at.readout[e * m + k] * pair.u[k] * sum(feature_sums + k * W);
        bias_gradient[e] += total;
      }
  }

  // out = scale gradient
  OUTLINE void write(R scale, R* out) {
    const long m = f.m, d = f.d, o = f.o;
    long j = m * d;
    auto put = [&](R value) { out[j++] = scale * value; };
    for (long k = 0; k < m; k++) f.spread(weight_sums + k * f.columns, scale, out + k * d);
    if (f.hidden_bias)
      for (long k = 0; k < m; k++) put(sum(hidden_sums + k * W));
    for (long k = 0; k < o * m; k++) put(readout_gradient[k] + sum(readout_sums + k * W));
    if (f.readout_bias)
      for (long e = 0; e < o; e++) put(bias_gradient[e]);
  }
};
