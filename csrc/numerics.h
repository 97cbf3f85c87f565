// Elementary functions and number formats, branch-free so that `omp simd` loops vectorise them on every instruction set:
// both sides of a choice are computed before it, and conditions are joined by & and not by &&.
//
// A. exp for x <= 0, error below 1 ulp; the same in fewer operations, error below 1 ulp (without FMA: 1.2).
// B. log(x) for x >= 0, log(1 + y) and log(1 - p) for y and p in [0, 1], error below 1 ulp (log(1 + y) without FMA: 1.31).
//    Choices cost as much as the polynomial: without them for numbers that need none.
// C. bfloat16 and float16 to and from float32, rounding to nearest even as torch does.
// D. exp for any x, error below 1.01 ulp, and log for any x, as B; exp for an x that needs no choice.
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

// Rounded once where the processor can. Where a compiler might choose another product to round, or none: a result must not
// depend on the loop that it stands in.
LOSSKIT_INLINE float multiply_add(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
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

// One chain: the next element has one of its own.
LOSSKIT_INLINE float exp_polynomial(float r) { return (((kExp6 * r + kExp5) * r + kExp4) * r + kExp3) * r + kExp2; }

// For sums of many exponentials, whose time is that of these operations.
LOSSKIT_INLINE float exp_of_many(float x) {
    float shifted = x * 1.44269504f + kRound;
    float n = shifted - kRound;
    float r = (x - n * kLn2High) - n * kLn2Low;
    float p = exp_polynomial(r);
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
    // The largest terms last. The first part of e * ln 2 is exact.
    return e * kLn2High + (f + multiply_add(p * f - 0.5f, square, e * kLn2Low));
}

// x = 2^e * m with m in [2/3, 4/3), for a normal x: the bits from 2/3 on are those of e, and those of m less 2/3.
constexpr uint32_t kTwoThirds = 0x3f2aaaabu;
LOSSKIT_INLINE uint32_t from_two_thirds(float x) { return bits_of(x) - kTwoThirds; }
LOSSKIT_INLINE int32_t exponent_in(uint32_t distance) { return static_cast<int32_t>(distance) >> 23; }
LOSSKIT_INLINE float significand_in(uint32_t distance) { return float_of((distance & 0x007fffffu) + kTwoThirds); }

LOSSKIT_INLINE float log_in(uint32_t distance) {
    return log_reduced(significand_in(distance) - 1.0f, static_cast<float>(exponent_in(distance)));
}

// Up to kPlain for a finite normal x above 0.
constexpr uint32_t kPlain = 0x7effffffu;
LOSSKIT_INLINE uint32_t oddness_for_log(float x) { return bits_of(x) - 0x00800000u; }
LOSSKIT_INLINE float log_normal(float x) { return log_in(from_two_thirds(x)); }

LOSSKIT_INLINE float log_nonnegative(float x) {
    bool denormal = x < 1.17549435e-38f;
    // Choices between numbers and not between results, of which both would be computed.
    uint32_t shift = denormal ? 23u << 23 : 0u;
    float result = log_in(from_two_thirds(x * (denormal ? 8388608.0f : 1.0f)) - shift);
    result = x == 0.0f ? -kInfinity : result;
    return x < kInfinity ? result : x;
}

// log(p) for p in (0, 1], where nothing has to be chosen; less than -103 for 0.
LOSSKIT_INLINE float log_unit(float p) {
    // The sum makes 0 of -0.
    return log_in(from_two_thirds(multiply_add(p, 8388608.0f, 0.0f)) - (23u << 23));
}

// log(1 - p) for p in [0, 1), less than -87 for 1. f comes from p itself, so that rounding 1 - p costs nothing: p times a
// power of two is exact, and so is the power less 1.
LOSSKIT_INLINE float log1m_unit(float p) {
    uint32_t distance = from_two_thirds(1.0f - p);
    float power = float_of(0x3f800000u - (distance & 0xff800000u));
    return log_reduced((power - 1.0f) - p * power, static_cast<float>(exponent_in(distance)));
}

// log(1 + y) for y in [0, 1] or NaN, as y and y times a polynomial.
LOSSKIT_INLINE float log1p_unit(float y) {
    float t = y - 0.5f;
    // log(1 + y) / y - 1. One chain: the next element has one of its own.
    float p = -0.0032440254f;
    p = p * t + 0.00525335083f;
    p = p * t - 0.00674991123f;
    p = p * t + 0.0115761505f;
    p = p * t - 0.0205702949f;
    p = p * t + 0.0366354734f;
    p = p * t - 0.0676876977f;
    p = p * t + 0.13260901f;
    p = p * t - 0.288527101f;
    p = p * t - 0.189069778f;
    return y + p * y;
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

// D. For |x| <= 87; up to kPlain for such an x.
LOSSKIT_INLINE uint32_t oddness_for_exp(float x) { return (bits_of(x) & 0x7fffffffu) + (kPlain - 0x42ae0000u); }
LOSSKIT_INLINE float exp_plain(float x) {
    float shifted = x * 1.44269504f + kRound;
    float n = shifted - kRound;
    float r = (x - n * kLn2High) - n * kLn2Low;
    return ((exp_polynomial(r) * (r * r) + r) + 1.0f) * float_of(bits_of(shifted) << 23);
}

// Above 0 the power of two is split, because 2^128 is no float and exp(88.7) is one.
LOSSKIT_INLINE float exp_any(float x) {
    // Beyond 88.73 the product is infinite by itself.
    float bounded = x > 89.0f ? 89.0f : x;
    float shifted = bounded * 1.44269504f + kRound;
    float n = shifted - kRound;
    float r = (bounded - n * kLn2High) - n * kLn2Low;
    float y = (exp_polynomial(r) * (r * r) + r) + 1.0f;
    uint32_t one = x > 0.0f ? 1u << 23 : 0u;
    float result = y * float_of((bits_of(shifted) << 23) - one) * float_of(0x3f800000u + one);
    return x < kLeastExponent ? 0.0f : result;
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
