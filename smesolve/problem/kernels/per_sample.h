// Masks, or noise, that each sample has for itself.
#pragma once

#include "dropout.h"

// The pair (S, u) of each sample: for masks eta (n, m) that of c_k = eta_k R(eta), for noise that of (4) with (5), with
// xi, signs e, g and omega of its own. In a tile, samples lie side by side.
template <class R> struct PerSample {
  int terms = 1;
  R weight = 0;
  Array<R> first, signs, delta, pairs;  // eta or u (m, TILE), e (m, TILE), delta (m, TILE), v g (TILE)
  Array<R> masked, with_signs;          // first h, e h: (m, TILE)

  explicit PerSample(long m)
      : first(m * TILE<R>), signs(m * TILE<R>), delta(m * TILE<R>), pairs(TILE<R>), masked(m * TILE<R>),
        with_signs(m * TILE<R>) {}

  void gradient(long m, const R* masks) { terms = 1, weight = 0, drawn = masks, numbers = m; }
  // all normals times `factor`
  void noise(long m, const Moments& of, const R* normals, R factor, R mean) {
    terms = 3, weight = mean, drawn = normals, law = of, scale = factor, numbers = (of.chi != 0 ? 3 : 2) * m + 1;
  }

  // Reads the draws of `count` samples, the first of which is `sample`; the remaining lanes up to `lanes` become 0.
  void fill(long m, long sample, long count, long lanes) {
    const R root = std::sqrt(R(law.variance)) * scale, v = R(law.variance) * scale;
    for (long i = 0; i < lanes; i++) {
      const R* row = drawn + (sample + i) * numbers;
      if (i >= count) {
        for (long k = 0; k < m; k++) first[k * TILE<R> + i] = signs[k * TILE<R> + i] = delta[k * TILE<R> + i] = 0;
        pairs[i] = 0;
      } else if (terms == 1) {
        for (long k = 0; k < m; k++) first[k * TILE<R> + i] = row[k], delta[k * TILE<R> + i] = 0;
      } else {
        const R pair = pairs[i] = v * row[2 * m];
        for (long k = 0; k < m; k++) {
          const R u = root * row[k], e = row[m + k];
          R diagonal = R(law.skew) * u - pair + weight * R(law.variance);
          if (law.chi != 0) diagonal += R(law.chi) * scale * row[2 * m + 1 + k];
          first[k * TILE<R> + i] = u;
          signs[k * TILE<R> + i] = (e > 0) - (e < 0);
          delta[k * TILE<R> + i] = diagonal;
        }
      }
    }
  }

 private:
  const R* drawn = nullptr;
  long numbers = 0;  // per sample
  Moments law = {};
  R scale = 0;
};
