// Vectors of floats as the compiler's vector types, and the exponential function on them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

#define INLINE static inline __attribute__((always_inline))
#define INLINE_METHOD inline __attribute__((always_inline))
#define OUTLINE __attribute__((noinline))  // compiled once for all callers

template <class R> struct Lanes;

template <> struct Lanes<double> {
  static constexpr int count = VECTOR_BYTES / 8;
  typedef double vector __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t integers __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int fraction_bits = 52;
  static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  static constexpr double exp_least = -708.0, exp_most = 709.0;
};

template <> struct Lanes<float> {
  static constexpr int count = VECTOR_BYTES / 4;
  typedef float vector __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t integers __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int fraction_bits = 23;
  static constexpr float magic = 12582912.0f;  // 1.5 * 2^23
  static constexpr float exp_least = -87.0f, exp_most = 88.0f;
};

template <class R> using Vector = typename Lanes<R>::vector;

template <class R> INLINE Vector<R> load(const R* p) {
  Vector<R> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class R> INLINE void store(R* p, Vector<R> v) { std::memcpy(p, &v, sizeof v); }
template <class R> INLINE Vector<R> filled(R x) { return x - Vector<R>{}; }
template <class R> INLINE R sum(const R* p) {  // of one vector
  R s = 0;
  for (int i = 0; i < Lanes<R>::count; i++) s += p[i];
  return s;
}

// c[0] + c[1] x + ... + c[N - 1] x^(N - 1)
template <class R, int N> INLINE Vector<R> polynomial(const double (&c)[N], Vector<R> x) {
  Vector<R> p = filled(R(c[N - 1]));
#pragma GCC unroll 32
  for (int i = N - 2; i >= 0; i--) p = p * x + R(c[i]);
  return p;
}

// (2^r - 1) / r on [-1/2, 1/2], and on [-1/32, 1/32]; interpolation at Chebyshev's nodes. Relative errors of 2^r are
// below 1e-17, 6e-9 and 2e-17: less than rounding.
constexpr double EXP2_DOUBLE[] = {0.6931471805599453094, 0.2402265069591009822, 0.05550410866482159434,
                                  0.009618129107606888527, 0.001333355814641693531, 0.0001540353044173605015,
                                  0.00001525273382983611839, 1.321544258792168965e-6, 1.017806244584577352e-7,
                                  7.0725859492692237e-9, 4.454960598186518394e-10};
constexpr double EXP2_FLOAT[] = {0.6931471880262287811, 0.2402265076056812694, 0.05550357114219077819,
                                 0.009618082557277851491, 0.001339086336467123438, 0.0001545316294512069018};
constexpr double EXP2_NEAR[] = {0.6931471805599457533, 0.2402265069591007508, 0.05550410865663929891,
                                0.009618129106919537867, 0.001333378157678426869, 0.0001540372398074925642};
alignas(64) constexpr double SIXTEENTHS[16] = {  // 2^(j/16)
    1.0,                  1.04427378242741384,  1.090507732665257659, 1.138788634756691654,
    1.189207115002721067, 1.241857812073484049, 1.296839554651009666, 1.354255546936892728,
    1.414213562373095049, 1.476826145939499311, 1.542210825407940824, 1.610490331949254308,
    1.681792830507429086, 1.756252160373299483, 1.834008086409342463, 1.915206561397147294};
constexpr double LOG2_E = 1.4426950408889634074;

// exp(x), with a relative error of |x| roundings, clipped to the range of normal numbers; NaN stays NaN
template <class R> INLINE Vector<R> exponential(Vector<R> x) {
  using L = Lanes<R>;
  x = x > L::exp_most ? filled(L::exp_most) : x;
  x = x < L::exp_least ? filled(L::exp_least) : x;
  const Vector<R> s = x * R(LOG2_E);
  Vector<R> power;
  typename L::integers whole;
#if defined(__AVX512F__) && !defined(__clang__)
  if constexpr (sizeof(R) == 8) {  // s = whole/16 + r, 2^(whole/16) from a table
    const Vector<R> shifted = s + L::magic / 16;
    const Vector<R> r = s - (shifted - L::magic / 16);
    std::memcpy(&whole, &shifted, sizeof whole);
    const Vector<R> table = __builtin_shuffle(load(SIXTEENTHS), load(SIXTEENTHS + 8), whole);
    power = table * (polynomial<R>(EXP2_NEAR, r) * r) + table;
    whole = whole >> 4;
  } else
#endif
  {  // s = whole + r
    const Vector<R> shifted = s + L::magic;
    const Vector<R> r = s - (shifted - L::magic);
    std::memcpy(&whole, &shifted, sizeof whole);
    if constexpr (sizeof(R) == 8) {
      power = polynomial<R>(EXP2_DOUBLE, r) * r + R(1);
    } else {
      power = polynomial<R>(EXP2_FLOAT, r) * r + R(1);
    }
  }
  typename L::integers bits;
  std::memcpy(&bits, &power, sizeof bits);
  bits = bits + (whole << L::fraction_bits);
  std::memcpy(&power, &bits, sizeof power);
  return power;
}
