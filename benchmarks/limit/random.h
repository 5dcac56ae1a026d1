// What the kernels written by hand share: AVX2 arithmetic, xoshiro128+, a branch-free Box-Muller, and threads.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

using Floats = __m256;
using Words = __m256i;

inline Floats all(float a) { return _mm256_set1_ps(a); }
inline Words all(int a) { return _mm256_set1_epi32(a); }
inline Words bits(Floats a) { return _mm256_castps_si256(a); }
inline Floats floats(Words a) { return _mm256_castsi256_ps(a); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats load(const float *p) { return _mm256_loadu_ps(p); }
inline void store(float *p, Floats a) { _mm256_storeu_ps(p, a); }

template <int N>
inline Floats horner(Floats x, const float (&c)[N]) {
  Floats p = all(c[0]);
  for (int i = 1; i < N; i++) p = fma(p, x, all(c[i]));
  return p;
}

inline uint64_t splitmix(uint64_t &state) {
  uint64_t z = (state += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

struct Xoshiro {  // eight streams of xoshiro128+ (Blackman and Vigna 2018)
  Words s[4];

  explicit Xoshiro(uint64_t seed) {
    alignas(32) uint32_t w[32];
    for (uint32_t &x : w) x = static_cast<uint32_t>(splitmix(seed) >> 32);
    for (int i = 0; i < 4; i++) s[i] = _mm256_load_si256(reinterpret_cast<const Words *>(w + 8 * i));
  }

  Words next() {
    const Words out = _mm256_add_epi32(s[0], s[3]), t = _mm256_slli_epi32(s[1], 9);
    s[2] = _mm256_xor_si256(s[2], s[0]);
    s[3] = _mm256_xor_si256(s[3], s[1]);
    s[1] = _mm256_xor_si256(s[1], s[2]);
    s[0] = _mm256_xor_si256(s[0], s[3]);
    s[2] = _mm256_xor_si256(s[2], t);
    s[3] = _mm256_or_si256(_mm256_slli_epi32(s[3], 11), _mm256_srli_epi32(s[3], 21));
    return out;
  }

  // eight integers below n < 2^12, times 2^shift
  Words below(int n, int shift) {
    const Words scaled = _mm256_mullo_epi32(_mm256_srli_epi32(next(), 12), all(n));
    return _mm256_slli_epi32(_mm256_srli_epi32(scaled, 20), shift);
  }
};

// -2 log u for u = (a + 1/2) 2^-31, a of 31 bits (Cephes logf)
inline Floats minus_two_log(Words word) {
  static const float c[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f, 1.4249322787e-1f,
                            -1.6668057665e-1f, 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
  const Floats u = fma(_mm256_cvtepi32_ps(_mm256_srli_epi32(word, 1)), all(0x1p-31f), all(0x1p-32f));
  const Words exponent = _mm256_srai_epi32(_mm256_sub_epi32(bits(u), all(0x3f3504f3)), 23);
  const Floats f = _mm256_sub_ps(floats(_mm256_sub_epi32(bits(u), _mm256_slli_epi32(exponent, 23))), all(1.f));
  const Floats y = fma(_mm256_mul_ps(f, f), fma(f, horner(f, c), all(-.5f)), f);
  return _mm256_mul_ps(all(-2.f), fma(_mm256_cvtepi32_ps(exponent), all(.69314718f), y));
}

inline void box_muller(Words a, Words b, Floats &first, Floats &second) {
  static const float sines[] = {-3.6116841e-5f, 2.4903088e-3f, -8.0745600e-2f, 7.8539819e-1f};
  static const float cosines[] = {3.5313346e-6f, -3.2594201e-4f, 1.5854328e-2f, -3.0842514e-1f, 1.f};
  const Floats radius = _mm256_sqrt_ps(_mm256_max_ps(minus_two_log(a), all(0.f)));
  const Floats x = _mm256_mul_ps(_mm256_cvtepi32_ps(b), all(0x1p-31f)), square = _mm256_mul_ps(x, x);
  const Floats sin = _mm256_mul_ps(x, horner(square, sines)), cos = horner(square, cosines);
  const Floats swap = floats(_mm256_slli_epi32(b, 31)), sign = all(-0.f);
  first = _mm256_mul_ps(radius, _mm256_blendv_ps(cos, sin, swap));
  second = _mm256_mul_ps(radius, _mm256_blendv_ps(sin, cos, swap));
  first = _mm256_xor_ps(first, _mm256_and_ps(sign, floats(_mm256_slli_epi32(b, 30))));
  second = _mm256_xor_ps(second, _mm256_and_ps(sign, floats(_mm256_slli_epi32(b, 29))));
}

inline void normals(Xoshiro &g, Floats &first, Floats &second) {
  const Words a = g.next(), b = g.next();
  box_muller(a, b, first, second);
}

inline Floats exponential(Floats x) {
  static const float c[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, .5f};
  x = _mm256_min_ps(_mm256_max_ps(x, all(-80.f)), all(80.f));
  const Floats n = _mm256_round_ps(_mm256_mul_ps(x, all(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Floats r = _mm256_fnmadd_ps(n, all(.69314718f), x);
  const Floats p = _mm256_add_ps(fma(horner(r, c), _mm256_mul_ps(r, r), r), all(1.f));
  return floats(_mm256_add_epi32(bits(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}

inline float sum(Floats v) {
  __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  h = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

inline uint64_t stream(uint64_t seed, int64_t i) { return seed + 0xD1B54A32D192ED03ull * static_cast<uint64_t>(i + 1); }

// work(block) for every block of chains, dealt out to the threads
template <class Work>
inline void deal(int threads, int64_t blocks, Work work) {
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; t++)
    pool.emplace_back([=] {
      for (int64_t block = t; block < blocks; block += threads) work(block);
    });
  for (auto &t : pool) t.join();
}

// rows of `width` numbers in rows of `stride` that start where cache lines do
struct Rows {
  std::vector<float> memory;
  float *first;

  Rows(int64_t count, int stride) : memory(count * stride + 16) {
    first = reinterpret_cast<float *>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~uintptr_t(63));
  }
};

}  // namespace
