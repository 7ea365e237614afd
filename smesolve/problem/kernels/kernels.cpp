// What fused.py calls: loops over paths, and the step of small_noise_rk4. No Python here.

#include "forms.h"
#include "hessian.h"
#include "sample_cotangents.h"
#include "third_derivative.h"

struct Problem {
  int64_t single, activation;  // the number in ACTIVATIONS of smesolve/problem/kernels/fused.py
  std::unique_ptr<Data<double>> doubles;
  std::unique_ptr<Data<float>> floats;
  const void* given;  // for the activation `Given`: the features of all paths (m, n), where they are the same
};

template <class R> static const Data<R>& data_of(const Problem& problem) {
  if constexpr (sizeof(R) == 8) {
    return *problem.doubles;
  } else {
    return *problem.floats;
  }
}

// Calls function(path) with the Path of the problem's dtype and activation.
template <class R, class Function> static void with_activation(const Problem& problem, Function function) {
  const Data<R>& data = data_of<R>(problem);
  switch (problem.activation) {
    case 0: { Path<R, Tanh> path(data); return function(path, R()); }
    case 1: { Path<R, Relu> path(data); return function(path, R()); }
    case 2: { Path<R, Gelu> path(data); return function(path, R()); }
    case 3: { Path<R, Sigmoid> path(data); return function(path, R()); }
    case 4: { Path<R, Softplus> path(data); return function(path, R()); }
    case 5: { Path<R, Identity> path(data); return function(path, R()); }
    default: {
      Path<R, Given> path(data);
      path.given = static_cast<const R*>(problem.given);
      return function(path, R());
    }
  }
}
template <class Function> static void with_path(const void* handle, Function function) {
  const Problem& problem = *static_cast<const Problem*>(handle);
  if (problem.single) return with_activation<float>(problem, function);
  with_activation<double>(problem, function);
}

// Calls function(pair) with the pair for a kind of noise: with signs (0), of independent normals (1), or per sample (2).
template <class Path, class Function> static void with_noise(Path& path, int64_t kind, Function function) {
  if (kind == 2) return function(path.per_sample());
  if (kind == 1) return function(path.full);
  function(path.low_rank);
}

// A (paths, ...) array; the stride from one path to the next is in numbers.
struct Rows {
  const void* data;
  int64_t stride;
  template <class R> const R* row(long path) const { return static_cast<const R*>(data) + path * stride; }
};

// Features (paths, m, n) for the activation `Given` and the address of their cotangents, or null pointers.
struct Features {
  Rows values;
  void* cotangents;
  template <class Path, class R> void give(Path& path, long number, R) const {
    if (!cotangents) return;
    path.given = values.row<R>(number);
    path.given_back = static_cast<R*>(cotangents) + number * path.f.m * path.f.n;
    path.given_scale = R(1) / path.f.n;
  }
};

// Returns whether several paths are at one theta, whose features are then kept for all of them.
template <class Path, class R> static bool keep_shared(Path& path, int64_t paths, const Rows& theta, R) {
  if (theta.stride != 0 || paths < 2) return false;
  path.keep(theta.row<R>(0));
  return true;
}

extern "C" {

int64_t smesolve_interface() { return 4; }  // INTERFACE in smesolve/problem/kernels/library.py

// The highest level of x86-64 that this processor has, 0 on others.
int64_t smesolve_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  auto all = [](auto... has) { return (has && ...); };
#define HAS(feature) (__builtin_cpu_supports(feature) != 0)
  if (!all(HAS("avx2"), HAS("fma"), HAS("bmi"), HAS("bmi2"))) return 2;
  if (!all(HAS("avx512f"), HAS("avx512bw"), HAS("avx512cd"), HAS("avx512dq"), HAS("avx512vl"))) return 3;
  return 4;
#else
  return 0;
#endif
}

void* smesolve_make(int64_t single, int64_t activation, int64_t n, int64_t d, int64_t m, int64_t o,
                    int64_t hidden_bias, int64_t readout_bias, const void* x, const void* y) {
  const Net net{n, d, m, o, hidden_bias != 0, readout_bias != 0};
  auto* problem = new Problem{single, activation, nullptr, nullptr, x};  // a network without inputs takes x as given
  if (single) {
    problem->floats.reset(new Data<float>(net, static_cast<const float*>(x), static_cast<const float*>(y)));
  } else {
    problem->doubles.reset(new Data<double>(net, static_cast<const double*>(x), static_cast<const double*>(y)));
  }
  return problem;
}

void smesolve_release(void* handle) { delete static_cast<Problem*>(handle); }

void smesolve_gradient(const void* handle, int64_t per_sample, int64_t paths, Rows theta, Rows masks, Features features,
                       void* out) {
  with_path(handle, [&](auto& path, auto zero) {
    using R = decltype(zero);
    const auto& f = path.f;
    const bool stored = !features.cotangents && keep_shared(path, paths, theta, zero);
    auto each = [&](auto& pair) {
      for (long b = 0; b < paths; b++) {
        features.give(path, b, zero);
        pair.gradient(f.m, masks.row<R>(b));
        path.pull(pair, theta.row<R>(b), stored, R(1) / f.n, static_cast<R*>(out) + b * f.dim());
      }
    };
    if (per_sample) return each(path.per_sample());
    each(path.low_rank);
  });
}

void smesolve_mean_gradient(const void* handle, const Moments* law, int64_t paths, Rows theta, Features features,
                            void* out) {
  with_path(handle, [&](auto& path, auto zero) {
    using R = decltype(zero);
    const auto& f = path.f;
    path.low_rank.mean(f.m, *law);
    for (long b = 0; b < paths; b++) {
      features.give(path, b, zero);
      path.pull(path.low_rank, theta.row<R>(b), false, R(1) / f.n, static_cast<R*>(out) + b * f.dim());
    }
  });
}

// Gradient under masks and mean gradient, which share a forward pass
void smesolve_gradient_and_mean(const void* handle, const Moments* law, int64_t per_sample, int64_t paths, Rows theta,
                                Rows masks, void* gradient, void* mean) {
  with_path(handle, [&](auto& path, auto zero) {
    using R = decltype(zero);
    const auto& f = path.f;
    const R scale = R(1) / f.n;
    auto each = [&](auto& pair) {
      for (long b = 0; b < paths; b++) {
        const R* at = theta.row<R>(b);
        const long begin = b * f.dim();
        path.keep(at);
        pair.gradient(f.m, masks.row<R>(b));
        path.pull(pair, at, true, scale, static_cast<R*>(gradient) + begin);
        path.low_rank.mean(f.m, *law);
        path.pull(path.low_rank, at, true, scale, static_cast<R*>(mean) + begin);
      }
    };
    if (per_sample) return each(path.per_sample());
    each(path.low_rank);
  });
}

// scale (weight times the mean gradient, plus the noise product), added to theta for an `advance`
void smesolve_noise(const void* handle, const Moments* law, int64_t kind, double weight, double scale, int64_t advance,
                    int64_t paths, Rows theta, Rows normals, Features features, void* out) {
  with_path(handle, [&](auto& path, auto zero) {
    using R = decltype(zero);
    const auto& f = path.f;
    const bool stored = !features.cotangents && keep_shared(path, paths, theta, zero);
    with_noise(path, kind, [&](auto& pair) {
      for (long b = 0; b < paths; b++) {
        features.give(path, b, zero);
        pair.noise(f.m, *law, normals.row<R>(b), R(1), R(weight));
        const R* at = theta.row<R>(b);
        R* end = static_cast<R*>(out) + b * f.dim();
        path.pull(pair, at, stored, R(scale) / f.n, end);
        for (long j = 0; advance && j < f.dim(); j++) end[j] += at[j];
      }
    });
  });
}

// R_S for variance 0, or L_S for the variance v of the masks
void smesolve_loss(const void* handle, double variance, int64_t paths, Rows theta, void* out) {
  with_path(handle, [&](auto& path, auto zero) {
    using R = decltype(zero);
    for (long b = 0; b < paths; b++)
      static_cast<R*>(out)[b] = path.squared_errors(theta.row<R>(b), R(variance)) / (2 * path.f.n);
  });
}

void smesolve_hessian_product(const void* handle, const Moments* law, int64_t paths, Rows theta, Rows vectors,
                              void* out) {
  with_path(handle, [&](auto& path, auto zero) {
    using R = decltype(zero);
    const auto& f = path.f;
    const bool stored = keep_shared(path, paths, theta, zero);
    for (long b = 0; b < paths; b++)
      path.hessian(theta.row<R>(b), vectors.row<R>(b), R(law->variance), stored, R(1) / f.n,
                   static_cast<R*>(out) + b * f.dim());
  });
}

// D^3 L_S along two directions
void smesolve_third_derivative(const void* handle, const Moments* law, int64_t paths, Rows theta, Rows first,
                               Rows second, void* out) {
  with_path(handle, [&](auto& path, auto zero) {
    using R = decltype(zero);
    const auto& f = path.f;
    const bool stored = keep_shared(path, paths, theta, zero);
    for (long b = 0; b < paths; b++)
      path.third_derivative(theta.row<R>(b), first.row<R>(b), second.row<R>(b), R(law->variance), stored, R(1) / f.n,
                            static_cast<R*>(out) + b * f.dim());
  });
}

// Mean gradient g, noise product, and Hess L_S g, which share a forward pass
void smesolve_parts(const void* handle, const Moments* law, int64_t kind, int64_t paths, Rows theta, Rows normals,
                    void* mean, void* noise, void* curvature) {
  with_path(handle, [&](auto& path, auto zero) {
    using R = decltype(zero);
    const auto& f = path.f;
    const R scale = R(1) / f.n;
    for (long b = 0; b < paths; b++) {
      const R* at = theta.row<R>(b);
      const long begin = b * f.dim();
      R* gradient = static_cast<R*>(mean) + begin;
      path.keep(at);
      path.low_rank.mean(f.m, *law);
      path.pull(path.low_rank, at, true, scale, gradient);
      with_noise(path, kind, [&](auto& pair) {
        pair.noise(f.m, *law, normals.row<R>(b), R(1), R(0));
        path.pull(pair, at, true, scale, static_cast<R*>(noise) + begin);
      });
      path.hessian(at, gradient, R(law->variance), true, scale, static_cast<R*>(curvature) + begin);
    }
  });
}

// A step dt of small_noise_rk4 (smesolve/solver/schemes/small_noise_rk4.py) on the equation of order 1 or 2, with
// Brownian increments dW. `prediction` and `noise` of the step are both given, or both null.
void smesolve_rk4(const void* handle, const Moments* law, int64_t kind, int64_t order, double lr, double dt,
                  int64_t paths, Rows theta, Rows increments, void* out, void* prediction, void* noise) {
  with_path(handle, [&](auto& path, auto zero) {
    using R = decltype(zero);
    const auto& f = path.f;
    const long D = f.dim();
    const R scale = R(1) / f.n, h = R(dt), root = R(std::sqrt(lr)), bend = order == 2 ? R(-dt * lr / 2) : R(0);
    const R v = R(law->variance);
    Array<R> memory(6 * D);
    R *g1 = memory, *g2 = g1 + D, *g3 = g2 + D, *g4 = g3 + D, *P = g4 + D, *at = P + D;
    auto mean = [&](const R* point, bool stored, R* gradient) {
      path.low_rank.mean(f.m, *law);
      path.pull(path.low_rank, point, stored, scale, gradient);
    };
    for (long b = 0; b < paths; b++) {
      const R *y = theta.row<R>(b), *dW = increments.row<R>(b);
      R* end = static_cast<R*>(out) + b * D;
      mean(y, false, g1);  // k1 = -g1
      for (long j = 0; j < D; j++) at[j] = y[j] - h / 2 * g1[j];
      path.keep(at);
      mean(at, true, g2);
      // P = sqrt(lr) C dW + dt lr b1 at y + dt/2 k1, b1 = -1/2 Hess L_S g2
      with_noise(path, kind, [&](auto& pair) {
        pair.noise(f.m, *law, dW, root, R(0));
        if (noise || order == 1) {
          path.pull(pair, at, true, scale, P);
        } else {
          path.pull_and_bend(pair, at, g2, v, bend, scale, P);
        }
      });
      if (noise) {
        std::memcpy(static_cast<R*>(noise) + b * D, P, sizeof(R) * D);
        R* predicted = static_cast<R*>(prediction) + b * D;  // y + dt k2 + (P - noise)
        for (long j = 0; j < D; j++) predicted[j] = y[j] - h * g2[j];
        if (order == 2) {
          path.hessian(at, g2, v, true, bend * scale, g3);
          for (long j = 0; j < D; j++) predicted[j] += g3[j], P[j] += g3[j];
        }
      }
      for (long j = 0; j < D; j++) at[j] = y[j] - h / 2 * g2[j] + P[j];
      mean(at, false, g3);
      for (long j = 0; j < D; j++) at[j] = y[j] - h * g3[j] + P[j];
      mean(at, false, g4);
      for (long j = 0; j < D; j++) end[j] = y[j] - h / 6 * (g1[j] + 2 * g2[j] + 2 * g3[j] + g4[j]) + P[j];
    }
  });
}

// Numbers in a vector: ranks of forms are multiples of it.
int64_t smesolve_lanes(int64_t single) { return single ? Lanes<float>::count : Lanes<double>::count; }

// (left - origin)^T A right for pairs of vectors and all forms A, out (pairs, forms): factors (forms, length, rank),
// values (forms, rank), and an origin (length) or null.
void smesolve_bilinear(int64_t single, int64_t forms, int64_t length, int64_t rank, const void* factors,
                       const void* values, int64_t pairs, Rows left, const void* origin, Rows right, void* out) {
  auto of = [&](auto zero) {
    using R = decltype(zero);
    const bool same = left.data == right.data && left.stride == right.stride && !origin;
    Array<R> a(FORM_VECTORS * rank), b(FORM_VECTORS * rank), differences(FORM_VECTORS * FORM_LENGTH);
    for (long begin = 0; begin < pairs; begin += FORM_VECTORS) {
      const long count = std::min<long>(FORM_VECTORS, pairs - begin);
      for (long g = 0; g < forms; g++) {
        const Form<R> form{length, rank, static_cast<const R*>(factors) + g * length * rank,
                           static_cast<const R*>(values) + g * rank};
        std::memset(a, 0, sizeof(R) * count * rank);
        std::memset(b, 0, sizeof(R) * count * rank);
        for (long j = 0; j < length; j += FORM_LENGTH) {  // both images while these factors are in the first cache
          form.add_images(j, count, left.row<R>(begin), left.stride, static_cast<const R*>(origin), differences, a);
          if (!same) form.add_images(j, count, right.row<R>(begin), right.stride, nullptr, differences, b);
        }
        for (long k = 0; k < count; k++)
          static_cast<R*>(out)[(begin + k) * forms + g] = form.value(a + k * rank, (same ? a : b) + k * rank);
      }
    }
  };
  if (single) return of(float());
  of(double());
}
}
