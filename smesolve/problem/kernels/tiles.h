// Products of a tile of samples: TILE samples lie side by side, so that a tile of all neurons stays in the first cache.
#pragma once

#include "vectors.h"

#define UNROLL _Pragma("GCC unroll 8")

constexpr int TILE_VECTORS = 4;
template <class R> constexpr int TILE = TILE_VECTORS * Lanes<R>::count;

// Vectors of a register block beside each other; 16 registers hold no more.
#if defined(__AVX512F__)
constexpr int BLOCK = 4;
#else
constexpr int BLOCK = 2;
#endif

// Columns of a matrix: all, one after another, or those of a list.
struct Adjacent {
  long operator[](long j) const { return j; }
};
struct Listed {
  const long* list;
  long operator[](long j) const { return list[j]; }
};

// y (K, V vectors) += w[:, columns] (K, J) x (J, V vectors)
template <class R, int K, int V, class Columns>
INLINE void add_block(const R* w, long ldw, long J, Columns columns, const R* x, long ldx, R* y, long ldy) {
  constexpr int W = Lanes<R>::count;
  Vector<R> a[K][V];
  UNROLL for (int k = 0; k < K; k++) UNROLL for (int v = 0; v < V; v++) a[k][v] = load(y + k * ldy + v * W);
  for (long j = 0; j < J; j++) {
    Vector<R> b[V];
    UNROLL for (int v = 0; v < V; v++) b[v] = load(x + j * ldx + v * W);
    const R* column = w + columns[j];
    UNROLL for (int k = 0; k < K; k++) {
      const R c = column[k * ldw];
      UNROLL for (int v = 0; v < V; v++) a[k][v] += c * b[v];
    }
  }
  UNROLL for (int k = 0; k < K; k++) UNROLL for (int v = 0; v < V; v++) store(y + k * ldy + v * W, a[k][v]);
}

template <class R, int V, class Columns>
INLINE void add_rows(const R* w, long ldw, long rows, long J, Columns columns, const R* x, long ldx, R* y, long ldy) {
  long k = 0;
  for (; k + 4 <= rows; k += 4) add_block<R, 4, V>(w + k * ldw, ldw, J, columns, x, ldx, y + k * ldy, ldy);
  const R* rest = w + k * ldw;
  if (rows - k == 3) add_block<R, 3, V>(rest, ldw, J, columns, x, ldx, y + k * ldy, ldy);
  if (rows - k == 2) add_block<R, 2, V>(rest, ldw, J, columns, x, ldx, y + k * ldy, ldy);
  if (rows - k == 1) add_block<R, 1, V>(rest, ldw, J, columns, x, ldx, y + k * ldy, ldy);
}

// y (rows, NV vectors of TILE) += w[:, columns] (rows, J) x (J, NV vectors of TILE)
template <class R, int NV, class Columns = Adjacent>
OUTLINE void add_product(const R* w, long ldw, long rows, long J, const R* x, R* y, Columns columns = Columns()) {
  constexpr int V = NV < BLOCK ? NV : BLOCK;
  for (int v = 0; v < NV; v += V)
    add_rows<R, V>(w, ldw, rows, J, columns, x + v * Lanes<R>::count, TILE<R>, y + v * Lanes<R>::count, TILE<R>);
}

// y (K, C vectors) += g (K, samples) x (samples, C vectors)
template <class R, int K, int C>
INLINE void add_outer_block(const R* g, int samples, const R* x, R* y, long columns) {
  constexpr int W = Lanes<R>::count;
  Vector<R> a[K][C];
  UNROLL for (int k = 0; k < K; k++) UNROLL for (int c = 0; c < C; c++) a[k][c] = load(y + k * columns + c * W);
  for (int i = 0; i < samples; i++) {
    Vector<R> b[C];
    UNROLL for (int c = 0; c < C; c++) b[c] = load(x + i * columns + c * W);
    UNROLL for (int k = 0; k < K; k++) {
      const R w = g[k * TILE<R> + i];
      UNROLL for (int c = 0; c < C; c++) a[k][c] += w * b[c];
    }
  }
  UNROLL for (int k = 0; k < K; k++) UNROLL for (int c = 0; c < C; c++) store(y + k * columns + c * W, a[k][c]);
}

template <class R, int K, int C>
INLINE void add_outer_columns(const R* g, long rows, int samples, const R* x, R* y, long columns) {
  long k = 0;
  for (; k + K <= rows; k += K)
    add_outer_block<R, K, C>(g + k * TILE<R>, samples, x, y + k * columns, columns);
  for (; k + 4 <= rows && K > 4; k += 4)
    add_outer_block<R, 4, C>(g + k * TILE<R>, samples, x, y + k * columns, columns);
  for (; k < rows; k++) add_outer_block<R, 1, C>(g + k * TILE<R>, samples, x, y + k * columns, columns);
}

// y (rows, columns) += g (rows, TILE: the first `samples`) x (samples, columns); columns fill whole vectors
template <class R> OUTLINE void add_outer(const R* g, long rows, int samples, const R* x, R* y, long columns) {
  constexpr int W = Lanes<R>::count;
  long c = 0;
  for (; c + BLOCK * W <= columns; c += BLOCK * W)
    add_outer_columns<R, 4, BLOCK>(g, rows, samples, x + c, y + c, columns);
  if (BLOCK > 3 && c + 3 * W == columns) return add_outer_columns<R, 4, 3>(g, rows, samples, x + c, y + c, columns);
  for (; c + 2 * W <= columns; c += 2 * W) add_outer_columns<R, 4, 2>(g, rows, samples, x + c, y + c, columns);
  for (; c < columns; c += W) add_outer_columns<R, 8, 1>(g, rows, samples, x + c, y + c, columns);
}
