// The activations of smesolve/problem/activations.py: values and three derivatives.
#pragma once

#include "vectors.h"

// An activation computes slope and curvature from its value h, or all three from x (`from_value` false). The third
// derivative is computed from x, h, slope s and curvature c; x is given only if `third_from_x`.

struct Tanh {
  static constexpr bool from_value = true;
  template <class R> static Vector<R> value(Vector<R> x) { return R(1) - R(2) / (exponential<R>(x + x) + R(1)); }
  template <class R> static Vector<R> slope(Vector<R> h) { return R(1) - h * h; }
  template <class R> static Vector<R> curvature(Vector<R> h, Vector<R> s) { return R(-2) * h * s; }
  static constexpr bool third_from_x = false;
  template <class R> static Vector<R> third(Vector<R>, Vector<R> h, Vector<R> s, Vector<R> c) {
    return R(-2) * (s * s + h * c);
  }
};

struct Relu {
  static constexpr bool from_value = true;
  template <class R> static Vector<R> value(Vector<R> x) { return x < R(0) ? Vector<R>{} : x; }
  template <class R> static Vector<R> slope(Vector<R> h) { return h > R(0) ? filled(R(1)) : Vector<R>{}; }
  template <class R> static Vector<R> curvature(Vector<R>, Vector<R>) { return Vector<R>{}; }
  static constexpr bool third_from_x = false;
  template <class R> static Vector<R> third(Vector<R>, Vector<R>, Vector<R>, Vector<R>) { return Vector<R>{}; }
};

struct Sigmoid {
  static constexpr bool from_value = true;
  template <class R> static Vector<R> value(Vector<R> x) { return R(1) / (exponential<R>(-x) + R(1)); }
  template <class R> static Vector<R> slope(Vector<R> h) { return h * (R(1) - h); }
  template <class R> static Vector<R> curvature(Vector<R> h, Vector<R> s) { return s * (R(1) - R(2) * h); }
  static constexpr bool third_from_x = false;
  template <class R> static Vector<R> third(Vector<R>, Vector<R> h, Vector<R> s, Vector<R> c) {
    return c * (R(1) - R(2) * h) - R(2) * s * s;
  }
};

struct Identity {
  static constexpr bool from_value = true;
  template <class R> static Vector<R> value(Vector<R> x) { return x; }
  template <class R> static Vector<R> slope(Vector<R>) { return filled(R(1)); }
  template <class R> static Vector<R> curvature(Vector<R>, Vector<R>) { return Vector<R>{}; }
  static constexpr bool third_from_x = false;
  template <class R> static Vector<R> third(Vector<R>, Vector<R>, Vector<R>, Vector<R>) { return Vector<R>{}; }
};

// Features computed by the caller, or inputs used as features: the identity, which is never evaluated.
struct Given : Identity {};

// x Phi(x), Phi the standard normal distribution: Phi(-a) = exp(-a^2/2) (1 - t) P(t), t = (a - 7/2)/(a + 7/2), a >= 0
struct Gelu {
  static constexpr bool from_value = false;
  static constexpr double tail_double[] = {
      0.1063451536337054466,     -0.08079454515053938457,  0.0450607099839926769,     -0.01657870410205300273,
      0.002486833228912820484,   0.0009251741325204659214, -0.0004555858653026297948, -0.00006357329235452079447,
      0.00006809388639913711961, 9.576272198471844751e-6,  -0.00001079790271236377091, -2.684544848539373519e-6,
      1.644167601645204821e-6,   8.085933181404865538e-7,  -1.673131172269089065e-7,  -2.135273804661198676e-7,
      -1.910292648584376393e-8,  4.483282081772454804e-8,  1.641669360248822791e-8,   -6.523759651325885967e-9,
      -4.505245103719124964e-9,  4.816085671396881025e-10, 5.435294125213733819e-10};
  static constexpr double tail_float[] = {
      0.1063451536337054466,     -0.08079454624687715097,  0.04506071049654783918,    -0.01657867307059301587,
      0.002486818843730324067,   0.0009249191158858822296, -0.000455470127971470912,  -0.00006265409477571905133,
      0.00006769318991915331963, 7.896979441920219169e-6,  -0.0000101200181937204795, -1.065575632787709694e-6,
      1.091189873494172038e-6};
  static constexpr double density_at_zero = 0.39894228040143267794;
  template <class R> static void all(Vector<R> x, Vector<R>& h, Vector<R>& s, Vector<R>& c) {
    const Vector<R> a = x < R(0) ? -x : x, squared = x * x, e = exponential<R>(R(-0.5) * squared);
    const Vector<R> share = R(1) / (a + R(3.5)), t = (a - R(3.5)) * share;
    Vector<R> tail;
    if constexpr (sizeof(R) == 8) {
      tail = polynomial<R>(tail_double, t);
    } else {
      tail = polynomial<R>(tail_float, t);
    }
    tail = e * (R(7) * share) * tail;
    const Vector<R> phi = x < R(0) ? tail : R(1) - tail, density = R(density_at_zero) * e;
    h = x * phi;
    s = phi + x * density;
    c = density * (R(2) - squared);
  }
  static constexpr bool third_from_x = true;
  template <class R> static Vector<R> third(Vector<R> x, Vector<R>, Vector<R>, Vector<R>) {
    const Vector<R> squared = x * x;
    return R(density_at_zero) * exponential<R>(R(-0.5) * squared) * x * (squared - R(4));
  }
};

// log(1 + exp(x)), and x beyond 20, as torch has it: max(x, 0) + 2 artanh(w), w = z/(2 + z), z = exp(-|x|)
struct Softplus {
  static constexpr bool from_value = false;
  static constexpr double artanh_double[] = {  // 2 artanh(w)/w in w^2 on [0, 1/9]
      2.0,
      0.6666666666666668332,
      0.3999999999999286676,
      0.2857142857262292797,
      0.222222221191036744,
      0.1818182342249525249,
      0.1538444706045996755,
      0.1333687681574383535,
      0.1171527466811042528,
      0.1097661663794749407,
      0.06980390498332432021,
      0.1648828593138956862};
  static constexpr double artanh_float[] = {1.999999999809006013, 0.6666667902643396956, 0.3999871124686233162,
                                            0.2862020740843723833, 0.2139856050667854324, 0.2439390808402302491};
  template <class R> static void all(Vector<R> x, Vector<R>& h, Vector<R>& s, Vector<R>& c) {
    const Vector<R> z = exponential<R>(x < R(0) ? x : -x), w = z / (R(2) + z);
    Vector<R> logarithm;
    if constexpr (sizeof(R) == 8) {
      logarithm = w * polynomial<R>(artanh_double, w * w);
    } else {
      logarithm = w * polynomial<R>(artanh_float, w * w);
    }
    const auto linear = x > R(20);
    const Vector<R> small = R(1) / (R(1) + z);
    h = linear ? x : (x < R(0) ? Vector<R>{} : x) + logarithm;
    s = linear ? filled(R(1)) : (x < R(0) ? z : filled(R(1))) * small;
    c = linear ? Vector<R>{} : z * small * small;
  }
  static constexpr bool third_from_x = false;
  template <class R> static Vector<R> third(Vector<R>, Vector<R>, Vector<R> s, Vector<R> c) { return c * (R(1) - R(2) * s); }
};
