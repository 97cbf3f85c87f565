// Elementary functions and number formats, branch-free so that `omp simd` loops vectorise them on every instruction set:
// both sides of a choice are computed before it, and conditions are joined by & and not by &&.
//
// A. exp for x <= 0, error below 1 ulp; the same in fewer operations, error below 1 ulp (without FMA: 1.2).
// B. log(x) for x >= 0, log(1 + y) and log(1 - p) for y and p in [0, 1], error below 1 ulp (log(1 + y) without FMA: 1.2).
// C. bfloat16 and float16 to and from float32, rounding to nearest even as torch does.
// D. exp for any x and log for any x, as A and B.
// E. tanh for any x, error below 1.5 ulp; its derivative.
//
// The coefficients are minimax fits of the named remainders. Do not compile with -ffast-math: it folds the rounding
// trick and the compensation away.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.h"

namespace losskit::LOSSKIT_ISA {
namespace {

LOSSKIT_INLINE float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

LOSSKIT_INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

constexpr float kInfinity = __builtin_inff();
constexpr float kNaN = __builtin_nanf("");
// ln 2 in two parts, the first with so few bits that its product with an exponent is exact.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// A. exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2) / 2.
// Adding 1.5 * 2^23 leaves the nearest integer in the low bits; a libm rintf does not vectorise on baseline x86-64. And 127
// more, so that shifted to the exponent these bits are 2^n. It is multiplied and not added to the exponent: a NaN stays one.
constexpr float kRound = 12582912.0f + 127.0f;
// Below this exp(x) is no normal number.
constexpr float kLeastExponent = -87.33654f;
// (exp(r) - 1 - r) / r^2
constexpr float kExp2 = 0.49999994f, kExp3 = 0.166665211f, kExp4 = 0.0416682623f, kExp5 = 0.00836867001f, kExp6 = 0.00138209877f;

LOSSKIT_INLINE float exp_nonpositive(float x) {
    float shifted = x * 1.44269504f + kRound;
    float n = shifted - kRound;
    // r = near + rest; near is exact, because the first part of ln 2 has few bits.
    float near = x - n * kLn2High, rest = n * -kLn2Low;
    float r = near + rest;
    float square = r * r;
    float p = (kExp2 + kExp3 * r) + square * ((kExp4 + kExp5 * r) + square * kExp6);
    // 1 + near and what rounding it loses.
    float sum = 1.0f + near, lost = (near - (sum - 1.0f)) + rest;
    float result = (sum + (p * square + lost)) * float_of(bits_of(shifted) << 23);
    // A comparison with NaN is false.
    return x < kLeastExponent ? 0.0f : result;
}

// For sums of many exponentials, whose time is that of these operations. One chain: the next element has one of its own.
LOSSKIT_INLINE float exp_of_many(float x) {
    float shifted = x * 1.44269504f + kRound;
    float n = shifted - kRound;
    float r = (x - n * kLn2High) - n * kLn2Low;
    float p = kExp6;
    p = p * r + kExp5;
    p = p * r + kExp4;
    p = p * r + kExp3;
    p = p * r + kExp2;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    float result = p * float_of(bits_of(shifted) << 23);
    return x < kLeastExponent ? 0.0f : result;
}

// B. log(1 + f) for 1 + f in [2/3, 4/3], plus e * ln 2.
LOSSKIT_INLINE float log_reduced(float f, float e) {
    float square = f * f, fourth = square * square;
    // (log(1 + f) - f + f^2 / 2) / f^3
    float p = ((0.333332151f - 0.249998048f * f) + square * (0.200104445f - 0.16680181f * f)) +
              fourth * ((0.140053406f - 0.121883437f * f) + square * (0.139867067f - 0.128744885f * f));
    // e * ln 2 + f and what rounding it loses.
    float whole = e * kLn2High, sum = whole + f, lost = (f - (sum - whole)) + e * kLn2Low;
    return sum + ((p * (square * f) + lost) - 0.5f * square);
}

// The e of log(x) = e * ln 2 + log(m) with m in [2/3, 4/3), for a normal x.
LOSSKIT_INLINE int32_t exponent_of(float x) { return static_cast<int32_t>(bits_of(x) - 0x3f2aaaabu) >> 23; }

LOSSKIT_INLINE float divide_by_power(float x, int32_t exponent) {
    return float_of(bits_of(x) - (static_cast<uint32_t>(exponent) << 23));
}

LOSSKIT_INLINE float log_nonnegative(float x) {
    bool denormal = x < 1.17549435e-38f;
    // Choices between numbers and not between results, of which both would be computed.
    float normal = x * (denormal ? 8388608.0f : 1.0f), shift = denormal ? 23.0f : 0.0f;
    int32_t exponent = exponent_of(normal);
    float result = log_reduced(divide_by_power(normal, exponent) - 1.0f, static_cast<float>(exponent) - shift);
    result = x == 0.0f ? -kInfinity : result;
    return x < kInfinity ? result : x;
}

// log(1 + y) for y in [0, 1] or NaN, as 7/8 y, which leaves little to the polynomial, and y times the polynomial.
LOSSKIT_INLINE float log1p_unit(float y) {
    float t = y - 0.5f, square = t * t, fourth = square * square;
    // log(1 + y) / y - 7/8; the largest terms last.
    float middle = (0.13260904f - 0.0676879659f * t) + square * (0.0366347544f - 0.0205676276f * t);
    float high = (0.0115805315f - 0.00676101772f * t) + square * (0.00524498615f - 0.00322753005f * t);
    float p = -0.06406978f + (t * -0.288527101f + square * (middle + fourth * high));
    // y - y / 8 and what rounding it loses.
    float part = -0.125f * y, sum = y + part, lost = (y - sum) + part;
    return sum + (p * y + lost);
}

// log(1 - p) for p in [0, 1]. f comes from p itself, so that rounding 1 - p costs nothing: 1 - 2 p is exact for p >= 1/4,
// and 1 - p for p >= 1/2.
LOSSKIT_INLINE float log1m_unit(float p) {
    float u = 1.0f - p;
    int32_t exponent = exponent_of(u);
    float far = divide_by_power(u, exponent) - 1.0f, middle = 1.0f - 2.0f * p;
    float f = exponent == 0 ? -p : exponent == -1 ? middle : far;
    float result = log_reduced(f, static_cast<float>(exponent));
    return u == 0.0f ? -kInfinity : result;
}

// C.
// Enumerations and not structures: those do not vectorise.
enum class bfloat16 : uint16_t {};
enum class float16 : uint16_t {};

LOSSKIT_INLINE float load(float value) { return value; }

LOSSKIT_INLINE float load(bfloat16 value) { return float_of(static_cast<uint32_t>(value) << 16); }

LOSSKIT_INLINE float load(float16 value) {
    uint32_t half = static_cast<uint32_t>(value);
    uint32_t magnitude = half & 0x7fffu;
    // Below 2^-14 the numbers lie as far apart as they do above it; the subtraction is exact. Small numbers of float16 are
    // normal in float32, and stay so on the way: the processor may be set to flush what is not.
    float small = float_of((113u << 23) | (magnitude << 13)) - 0x1p-14f;
    uint32_t normal = (magnitude << 13) + (112u << 23);
    uint32_t bits = magnitude < 0x400u ? bits_of(small) : normal;
    bits = magnitude >= 0x7c00u ? bits | 0x7f800000u : bits;
    return float_of(bits | (half & 0x8000u) << 16);
}

LOSSKIT_INLINE void store(float* out, float value) { *out = value; }

LOSSKIT_INLINE void store(bfloat16* out, float value) {
    uint32_t bits = bits_of(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    rounded = value == value ? rounded : 0x7fc0u;
    *out = static_cast<bfloat16>(static_cast<uint16_t>(rounded));
}

LOSSKIT_INLINE void store(float16* out, float value) {
    uint32_t bits = bits_of(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    // Below 2^-14 the numbers lie 2^-24 apart, as they do around 0.5 in float32: adding 0.5 rounds.
    uint32_t denormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    // What is too large rounds to more than infinity.
    uint32_t result = normal < 0x7c00u ? normal : 0x7c00u;
    result = magnitude < 0x38800000u ? denormal : result;
    result = magnitude > 0x7f800000u ? 0x7e00u : result;
    *out = static_cast<float16>(static_cast<uint16_t>(result | sign));
}

// D. As in A; above 0 the power of two is split, because 2^128 is no float and exp(88.7) is one.
LOSSKIT_INLINE float exp_any(float x) {
    constexpr float kMagic = 12582912.0f;
    float shifted = x * 1.44269504f + kMagic;
    float n = shifted - kMagic;
    constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;
    float r = (x - n * kHigh) - n * kLow;
    // (exp(r) - 1 - r) / r^2
    float p = 0.0013814598649f;
    p = p * r + 0.0083687168797f;
    p = p * r + 0.041668388045f;
    p = p * r + 0.16666520632f;
    p = p * r + 0.49999993448f;
    float y = (p * (r * r) + r) + 1.0f;
    uint32_t half = x > 0.0f ? 1u : 0u;
    float factor = x > 0.0f ? 2.0f : 1.0f;
    float result = float_of(bits_of(y) + ((bits_of(shifted) - bits_of(kMagic) - half) << 23)) * factor;
    result = x < -87.33654f ? 0.0f : result;
    // Between 88.72 and this bound the product is infinite by itself.
    result = x > 88.8f ? kInfinity : result;
    return x == x ? result : x;
}

// NaN below 0.
LOSSKIT_INLINE float log_any(float x) {
    float result = log_nonnegative(x);
    return x < 0.0f ? kNaN : result;
}

// E. Near 0 a polynomial, because 1 - exp(-2 |x|) would have no digits left; beyond it 1 - 2 t / (1 + t).
LOSSKIT_INLINE float tanh_any(float x) {
    float square = x * x, magnitude = x < 0.0f ? -x : x;
    // (tanh(x) / x - 1) / x^2
    float p = -0.333332837f + square * (0.133314908f + square * (-0.0537434965f + square * (0.0206505861f - 0.00571704470f * square)));
    float near = x + x * (square * p);
    float t = exp_nonpositive(-2.0f * magnitude), far = 1.0f - 2.0f * t / (1.0f + t);
    far = x < 0.0f ? -far : far;
    return magnitude < 0.625f ? near : far;
}

// Its derivative 1 - tanh(x)^2, with all digits where tanh(x) rounds to 1: 4 t / (1 + t)^2.
LOSSKIT_INLINE float tanh_slope(float x) {
    float magnitude = x < 0.0f ? -x : x, t = exp_nonpositive(-2.0f * magnitude), sum = 1.0f + t;
    return 4.0f * t / (sum * sum);
}

}  // namespace
}  // namespace losskit::LOSSKIT_ISA
