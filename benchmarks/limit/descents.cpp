// What the machine can do for minibatch SGD, written for AVX2 by hand: the weights of sixteen (or eight) chains stay in the
// first-level cache, examples lie in rows that start where cache lines do. A yardstick, not a library.
// given: n rows of the features and the target, one after the other, and before them the learning rate.
#include "random.h"

// Squared error, d = 10, B = 1, n < 4096, from 0: w <- w - lr (x.w - y) x. Chains a multiple of 16; out [chains][10].
extern "C" void linear(int threads, int64_t chains, int64_t steps, uint64_t seed, const float *given, int n, float *out) {
  constexpr int D = 10, C = 16;
  const float lr = given[0];
  Rows rows(n, 16);
  for (int i = 0; i < n; i++) std::memcpy(rows.first + 16 * i, given + 1 + (D + 1) * i, (D + 1) * sizeof(float));
  const float *X = rows.first;
  deal(threads, chains / C, [=](int64_t block) {
    alignas(32) float w[C * 16] = {};
    alignas(32) uint32_t at[16];
    for (int c = 0; c < C; c++) w[16 * c + D] = -1.f;  // so that a row's product with w is x.w - y
    const Floats features = floats(_mm256_setr_epi32(-1, -1, 0, 0, 0, 0, 0, 0));
    Xoshiro g(stream(seed, block));
    for (int64_t i = 0; i < steps; i++) {
      for (int h = 0; h < 2; h++) _mm256_store_si256(reinterpret_cast<Words *>(at) + h, g.below(n, 4));
      for (int c = 0; c < C; c++) {
        const float *row = X + at[c];
        const Floats x0 = _mm256_load_ps(row), x1 = _mm256_load_ps(row + 8);
        const Floats w0 = _mm256_load_ps(w + 16 * c), w1 = _mm256_load_ps(w + 16 * c + 8);
        const Floats p = fma(x0, w0, _mm256_mul_ps(x1, w1));
        Floats q = _mm256_add_ps(p, _mm256_permute2f128_ps(p, p, 1));
        q = _mm256_add_ps(q, _mm256_shuffle_ps(q, q, 0x4e));
        q = _mm256_mul_ps(_mm256_add_ps(q, _mm256_shuffle_ps(q, q, 0xb1)), all(-lr));
        _mm256_store_ps(w + 16 * c, fma(q, x0, w0));
        _mm256_store_ps(w + 16 * c + 8, fma(q, _mm256_and_ps(x1, features), w1));
      }
    }
    for (int c = 0; c < C; c++) std::memcpy(out + D * (C * block + c), w + 16 * c, D * sizeof(float));
  });
}

// Logistic loss log(1 + exp(-y x.w)), d = 30, B = 8, from 0. Chains a multiple of 16; out [chains][30].
extern "C" void logistic(int threads, int64_t chains, int64_t steps, uint64_t seed, const float *given, int n, float *out) {
  constexpr int D = 30, C = 16;
  const float lr = given[0] / 8;
  Rows rows(n, 32);
  for (int i = 0; i < n; i++)
    for (int d = 0; d < D; d++) rows.first[32 * i + d] = given[1 + (D + 1) * i + d] * given[1 + (D + 1) * i + D];
  const float *X = rows.first;
  deal(threads, chains / C, [=](int64_t block) {
    alignas(32) float weights[C * 32] = {}, steps_of[8];
    alignas(32) uint32_t at[8];
    Xoshiro g(stream(seed, block));
    for (int64_t i = 0; i < steps; i++)
      for (int c = 0; c < C; c++) {
        _mm256_store_si256(reinterpret_cast<Words *>(at), g.below(n, 5));
        float *W = weights + 32 * c;
        Floats w[4], s[8];
        for (int k = 0; k < 4; k++) w[k] = _mm256_load_ps(W + 8 * k);
        for (int k = 0; k < 8; k++) {
          const float *r = X + at[k];
          s[k] = _mm256_add_ps(fma(_mm256_load_ps(r), w[0], _mm256_mul_ps(_mm256_load_ps(r + 8), w[1])),
                               fma(_mm256_load_ps(r + 16), w[2], _mm256_mul_ps(_mm256_load_ps(r + 24), w[3])));
        }
        const Floats a = _mm256_hadd_ps(_mm256_hadd_ps(s[0], s[1]), _mm256_hadd_ps(s[2], s[3]));
        const Floats b = _mm256_hadd_ps(_mm256_hadd_ps(s[4], s[5]), _mm256_hadd_ps(s[6], s[7]));
        const Floats margin = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
        _mm256_store_ps(steps_of, _mm256_div_ps(all(lr), _mm256_add_ps(all(1.f), exponential(margin))));
        for (int k = 0; k < 8; k++) {
          const float *r = X + at[k];
          const Floats q = _mm256_broadcast_ss(steps_of + k);
          for (int j = 0; j < 4; j++) w[j] = fma(q, _mm256_load_ps(r + 8 * j), w[j]);
        }
        for (int k = 0; k < 4; k++) _mm256_store_ps(W + 8 * k, w[k]);
      }
    for (int c = 0; c < C; c++) std::memcpy(out + D * (C * block + c), weights + 32 * c, D * sizeof(float));
  });
}

static inline Floats tanh_of(Floats x) {
  const Floats e = exponential(_mm256_mul_ps(all(2.f), x));
  return _mm256_div_ps(_mm256_sub_ps(e, all(1.f)), _mm256_add_ps(e, all(1.f)));
}

// Half the squared error of a network 10-16-1 with tanh, B = 4. given: lr, W1 [10][16], b1 [16], w2 [16], b2, then the rows.
// Chains a multiple of 8; out [chains][193] in the order W1, b1, b2, w2 (that of the names).
extern "C" void network(int threads, int64_t chains, int64_t steps, uint64_t seed, const float *given, int n, float *out) {
  constexpr int D = 10, H = 16, B = 4, C = 8;
  struct Weights {
    alignas(32) float W1[D][H], b1[H], w2[H], b2;
  };
  const float lr = given[0] / B;
  Rows rows(n, 16);
  const float *data = given + 1 + D * H + 2 * H + 1;
  for (int i = 0; i < n; i++) std::memcpy(rows.first + 16 * i, data + (D + 1) * i, (D + 1) * sizeof(float));
  const float *X = rows.first;
  deal(threads, chains / C, [=](int64_t block) {
    Weights chain[C];
    for (Weights &p : chain) {
      std::memcpy(p.W1, given + 1, sizeof p.W1);
      std::memcpy(p.b1, given + 1 + D * H, sizeof p.b1);
      std::memcpy(p.w2, given + 1 + D * H + H, sizeof p.w2);
      p.b2 = given[1 + D * H + 2 * H];
    }
    Xoshiro g(stream(seed, block));
    alignas(32) uint32_t at[8];
    for (int64_t i = 0; i < steps; i++)
      for (int c = 0; c < C; c++) {
        if (c % 2 == 0) _mm256_store_si256(reinterpret_cast<Words *>(at), g.below(n, 4));
        Weights &p = chain[c];
        const float *row[B];
        for (int k = 0; k < B; k++) row[k] = X + at[4 * (c % 2) + k];
        Floats h[B][2], delta[B][2];
        for (int k = 0; k < B; k++)
          for (int v = 0; v < 2; v++) h[k][v] = load(p.b1 + 8 * v);
        for (int d = 0; d < D; d++)
          for (int v = 0; v < 2; v++) {
            const Floats w = load(p.W1[d] + 8 * v);
            for (int k = 0; k < B; k++) h[k][v] = fma(w, _mm256_broadcast_ss(row[k] + d), h[k][v]);
          }
        const Floats a0 = load(p.w2), a1 = load(p.w2 + 8);
        Floats g0 = all(0.f), g1 = all(0.f), c0 = all(0.f), c1 = all(0.f);
        float gb = 0;
        for (int k = 0; k < B; k++) {
          h[k][0] = tanh_of(h[k][0]), h[k][1] = tanh_of(h[k][1]);
          const float e = (sum(fma(h[k][0], a0, _mm256_mul_ps(h[k][1], a1))) + p.b2 - row[k][D]) * lr;
          const Floats E = all(e);
          gb += e;
          g0 = fma(E, h[k][0], g0), g1 = fma(E, h[k][1], g1);
          delta[k][0] = _mm256_mul_ps(_mm256_mul_ps(E, a0), _mm256_fnmadd_ps(h[k][0], h[k][0], all(1.f)));
          delta[k][1] = _mm256_mul_ps(_mm256_mul_ps(E, a1), _mm256_fnmadd_ps(h[k][1], h[k][1], all(1.f)));
          c0 = _mm256_add_ps(c0, delta[k][0]), c1 = _mm256_add_ps(c1, delta[k][1]);
        }
        for (int d = 0; d < D; d++)
          for (int v = 0; v < 2; v++) {
            Floats w = load(p.W1[d] + 8 * v);
            for (int k = 0; k < B; k++) w = _mm256_fnmadd_ps(delta[k][v], _mm256_broadcast_ss(row[k] + d), w);
            store(p.W1[d] + 8 * v, w);
          }
        store(p.w2, _mm256_sub_ps(a0, g0)), store(p.w2 + 8, _mm256_sub_ps(a1, g1));
        store(p.b1, _mm256_sub_ps(load(p.b1), c0)), store(p.b1 + 8, _mm256_sub_ps(load(p.b1 + 8), c1));
        p.b2 -= gb;
      }
    for (int c = 0; c < C; c++) {
      float *to = out + (D * H + 2 * H + 1) * (C * block + c);
      std::memcpy(to, chain[c].W1, sizeof chain[c].W1);
      std::memcpy(to + D * H, chain[c].b1, sizeof chain[c].b1);
      to[D * H + H] = chain[c].b2;
      std::memcpy(to + D * H + H + 1, chain[c].w2, sizeof chain[c].w2);
    }
  });
}
