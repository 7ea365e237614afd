// Vectors of floats as the compiler's vector types, and the exponential function on them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

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
constexpr double LOG2_E = 1.4426950408889634074;

#if defined(__AVX512F__) && !defined(__clang__)
// The bits of 2^(j/16), less j 2^48
alignas(64) constexpr int64_t SIXTEENTHS[16] = {
    0x3ff0000000000000, 0x3fefb5586cf9890f, 0x3fef72b83c7d517b, 0x3fef387a6e756238,
    0x3fef06fe0a31b715, 0x3feedea64c123422, 0x3feebfdad5362a27, 0x3feeab07dd485429,
    0x3feea09e667f3bcd, 0x3feea11473eb0187, 0x3feeace5422aa0db, 0x3feec49182a3f090,
    0x3feee89f995ad3ad, 0x3fef199bdd85529c, 0x3fef5818dcfba487, 0x3fefa4afa2a490da};

// exp(x) = 2^(whole/16) 2^r. With j = whole mod 16, whole 2^48 less j 2^48 adds (whole - j)/16 to the exponent.
INLINE Vector<double> exponential_by_table(Vector<double> x) {
  using L = Lanes<double>;
  x = _mm512_max_pd(filled(L::exp_least), _mm512_min_pd(filled(L::exp_most), x));  // of NaN, they return the second one
  const Vector<double> s = x * LOG2_E, shifted = s + L::magic / 16, r = s - (shifted - L::magic / 16);
  L::integers whole, low, high;
  std::memcpy(&whole, &shifted, sizeof whole);
  std::memcpy(&low, SIXTEENTHS, sizeof low), std::memcpy(&high, SIXTEENTHS + 8, sizeof high);
  const L::integers bits = __builtin_shuffle(low, high, whole) + (whole << 48);
  Vector<double> power;
  std::memcpy(&power, &bits, sizeof power);
  return power * (polynomial<double>(EXP2_NEAR, r) * r) + power;
}
#endif

// exp(x), with a relative error of |x| roundings, clipped to the range of normal numbers; NaN stays NaN
template <class R> INLINE Vector<R> exponential(Vector<R> x) {
  using L = Lanes<R>;
#if defined(__AVX512F__) && !defined(__clang__)
  if constexpr (sizeof(R) == 8) return exponential_by_table(x);
#endif
  x = x > L::exp_most ? filled(L::exp_most) : x;
  x = x < L::exp_least ? filled(L::exp_least) : x;
  const Vector<R> s = x * R(LOG2_E), shifted = s + L::magic, r = s - (shifted - L::magic);  // s = whole + r
  Vector<R> power;
  if constexpr (sizeof(R) == 8) {
    power = polynomial<R>(EXP2_DOUBLE, r) * r + R(1);
  } else {
    power = polynomial<R>(EXP2_FLOAT, r) * r + R(1);
  }
  typename L::integers whole, bits;
  std::memcpy(&whole, &shifted, sizeof whole);
  std::memcpy(&bits, &power, sizeof bits);
  bits = bits + (whole << L::fraction_bits);
  std::memcpy(&power, &bits, sizeof power);
  return power;
}
