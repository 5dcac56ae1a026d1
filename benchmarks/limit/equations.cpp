// What the machine can do for three stochastic differential equations, written for AVX2 by hand: chains stay in registers for
// all their steps. No counter, no statistics, no divergence check: a yardstick, not a library.
#include "random.h"

// x <- a x + s z: `chains` (a multiple of 32) positions after `steps` steps from 0.
extern "C" void ornstein_uhlenbeck(int threads, int64_t chains, int64_t steps, uint64_t seed, const float *given, float *out) {
  const float a = given[0], s = given[1];
  deal(threads, chains / 32, [=](int64_t block) {
    Xoshiro left(stream(seed, 2 * block)), right(stream(seed, 2 * block + 1));
    Floats x[4] = {all(0.f), all(0.f), all(0.f), all(0.f)};
    for (int64_t i = 0; i < steps; i++) {
      Floats z[4];
      normals(left, z[0], z[1]);
      normals(right, z[2], z[3]);
      for (int j = 0; j < 4; j++) x[j] = fma(all(a), x[j], _mm256_mul_ps(all(s), z[j]));
    }
    for (int j = 0; j < 4; j++) store(out + 32 * block + 8 * j, x[j]);
  });
}

// V = (x^2 - 1)^2/4 + y^2/2 + c x y from (1, 1): phi <- phi - dt grad V + s z. Chains a multiple of 16; out [chains][2].
extern "C" void double_well(int threads, int64_t chains, int64_t steps, uint64_t seed, const float *given, float *out) {
  const float dt = given[0], s = given[1], c = given[2];
  deal(threads, chains / 16, [=](int64_t block) {
    Xoshiro left(stream(seed, 2 * block)), right(stream(seed, 2 * block + 1));
    Floats x[2] = {all(1.f), all(1.f)}, y[2] = {all(1.f), all(1.f)};
    for (int64_t i = 0; i < steps; i++)
      for (int j = 0; j < 2; j++) {
        Floats p, q;
        normals(j ? right : left, p, q);
        const Floats gx = fma(x[j], _mm256_sub_ps(_mm256_mul_ps(x[j], x[j]), all(1.f)), _mm256_mul_ps(all(c), y[j]));
        const Floats gy = fma(all(c), x[j], y[j]);
        x[j] = fma(all(s), p, _mm256_fnmadd_ps(all(dt), gx, x[j]));
        y[j] = fma(all(s), q, _mm256_fnmadd_ps(all(dt), gy, y[j]));
      }
    alignas(32) float u[8], v[8];
    for (int j = 0; j < 2; j++) {
      _mm256_store_ps(u, x[j]), _mm256_store_ps(v, y[j]);
      for (int k = 0; k < 8; k++) out[2 * (16 * block + 8 * j + k)] = u[k], out[2 * (16 * block + 8 * j + k) + 1] = v[k];
    }
  });
}

// phi <- A phi + B z in ten dimensions from 0; given is A then B, row by row. Chains a multiple of 16; out [chains][10].
extern "C" void quadratic(int threads, int64_t chains, int64_t steps, uint64_t seed, const float *given, float *out) {
  constexpr int D = 10;
  const float *A = given, *B = given + D * D;
  deal(threads, chains / 16, [=](int64_t block) {
    Xoshiro g(stream(seed, block));
    Floats x[2][D], y[2][D];
    for (int j = 0; j < 2; j++)
      for (int d = 0; d < D; d++) x[j][d] = all(0.f);
    for (int64_t i = 0; i < steps; i++) {
      Floats z[2][D];
      for (int j = 0; j < 2; j++)
        for (int d = 0; d < D; d += 2) normals(g, z[j][d], z[j][d + 1]);
      for (int r = 0; r < D; r++) {
        Floats p0 = all(0.f), p1 = all(0.f), q0 = all(0.f), q1 = all(0.f);
        for (int c = 0; c < D; c++) {
          const Floats a = _mm256_broadcast_ss(A + r * D + c), b = _mm256_broadcast_ss(B + r * D + c);
          p0 = fma(a, x[0][c], p0), p1 = fma(a, x[1][c], p1), q0 = fma(b, z[0][c], q0), q1 = fma(b, z[1][c], q1);
        }
        y[0][r] = _mm256_add_ps(p0, q0), y[1][r] = _mm256_add_ps(p1, q1);
      }
      std::memcpy(x, y, sizeof x);
    }
    alignas(32) float u[8];
    for (int j = 0; j < 2; j++)
      for (int d = 0; d < D; d++) {
        _mm256_store_ps(u, x[j][d]);
        for (int k = 0; k < 8; k++) out[D * (16 * block + 8 * j + k) + d] = u[k];
      }
  });
}
