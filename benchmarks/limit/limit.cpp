// What the machine can do: an Ornstein-Uhlenbeck step x <- a x + s z written for AVX2 by hand, sixteen chains at a time in
// registers for all their steps, xoshiro128+ and a branch-free Box-Muller. No counter, no statistics, no divergence check:
// a yardstick, not a library.   c++ -O3 -mavx2 -mfma -std=c++17 -shared -fPIC -pthread limit.cpp -o limit.so
#include <immintrin.h>

#include <cstdint>
#include <thread>
#include <vector>

namespace {

using Floats = __m256;
using Words = __m256i;

Floats all(float a) { return _mm256_set1_ps(a); }
Words all(int a) { return _mm256_set1_epi32(a); }
Words bits(Floats a) { return _mm256_castps_si256(a); }
Floats floats(Words a) { return _mm256_castsi256_ps(a); }
Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

template <int N>
Floats horner(Floats x, const float (&c)[N]) {
  Floats p = all(c[0]);
  for (int i = 1; i < N; i++) p = fma(p, x, all(c[i]));
  return p;
}

uint64_t splitmix(uint64_t &state) {
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
};

// -2 log u for u = (a + 1/2) 2^-31, a of 31 bits (Cephes logf)
Floats minus_two_log(Words word) {
  static const float c[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f, 1.4249322787e-1f,
                            -1.6668057665e-1f, 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
  const Floats u = fma(_mm256_cvtepi32_ps(_mm256_srli_epi32(word, 1)), all(0x1p-31f), all(0x1p-32f));
  const Words exponent = _mm256_srai_epi32(_mm256_sub_epi32(bits(u), all(0x3f3504f3)), 23);
  const Floats f = _mm256_sub_ps(floats(_mm256_sub_epi32(bits(u), _mm256_slli_epi32(exponent, 23))), all(1.f));
  const Floats y = fma(_mm256_mul_ps(f, f), fma(f, horner(f, c), all(-.5f)), f);
  return _mm256_mul_ps(all(-2.f), fma(_mm256_cvtepi32_ps(exponent), all(.69314718f), y));
}

void box_muller(Words a, Words b, Floats &first, Floats &second) {
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

}  // namespace

// `chains` (a multiple of 32) positions after `steps` steps from 0, on `threads` threads.
extern "C" void ornstein_uhlenbeck(int threads, int64_t chains, int64_t steps, uint64_t seed, float a, float s, float *out) {
  const auto work = [=](int thread) {
    for (int64_t block = thread; block < chains / 32; block += threads) {
      Xoshiro left(seed + 0xD1B54A32D192ED03ull * (2 * block + 1)), right(seed + 0xD1B54A32D192ED03ull * (2 * block + 2));
      Floats x[4] = {all(0.f), all(0.f), all(0.f), all(0.f)};
      for (int64_t i = 0; i < steps; i++) {
        Floats z[4];
        const Words u = left.next(), v = left.next(), p = right.next(), q = right.next();
        box_muller(u, v, z[0], z[1]);
        box_muller(p, q, z[2], z[3]);
        for (int j = 0; j < 4; j++) x[j] = fma(all(a), x[j], _mm256_mul_ps(all(s), z[j]));
      }
      for (int j = 0; j < 4; j++) _mm256_storeu_ps(out + 32 * block + 8 * j, x[j]);
    }
  };
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; t++) pool.emplace_back(work, t);
  for (auto &t : pool) t.join();
}
