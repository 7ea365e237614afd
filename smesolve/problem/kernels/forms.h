// Symmetric bilinear forms of low rank.
#pragma once

#include <algorithm>

#include "dropout.h"

// Numbers of vectors and of their elements that are taken together, so that both and the factors stay in the first cache.
constexpr long FORM_VECTORS = 16, FORM_LENGTH = 64;

// A = F diag(s) F^T with F (length, rank) and s (rank); rank fills whole vectors.
template <class R> struct Form {
  static constexpr int W = Lanes<R>::count;
  long length, rank;
  const R *factors, *values;

  // out (count, rank) += (vectors - origin) F, the part of the elements from `begin` on; `differences` is working memory
  OUTLINE void add_images(long begin, long count, const R* vectors, long stride, const R* origin, R* differences,
                          R* out) const {
    const long some = std::min(FORM_LENGTH, length - begin);
    const R *left = vectors + begin, *F = factors + begin * rank;
    long ldw = stride;
    if (origin) {
      for (long b = 0; b < count; b++)
        for (long j = 0; j < some; j++)
          differences[b * FORM_LENGTH + j] = left[b * stride + j] - origin[begin + j];
      left = differences, ldw = FORM_LENGTH;
    }
    long c = 0;
    for (; c + BLOCK * W <= rank; c += BLOCK * W)
      add_rows<R, BLOCK>(left, ldw, count, some, Adjacent(), F + c, rank, out + c, rank);
    for (; c < rank; c += W) add_rows<R, 1>(left, ldw, count, some, Adjacent(), F + c, rank, out + c, rank);
  }

  // sum_r s_r a_r b_r
  R value(const R* a, const R* b) const {
    Vector<R> total = {};
    for (long c = 0; c < rank; c += W) total += load(values + c) * load(a + c) * load(b + c);
    R lanes[W];
    store(lanes, total);
    return sum(lanes);
  }
};
