#include "picture/resize.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#if defined(__GNUC__) && defined(__x86_64__)
#define BLUELM_RESIZE_AVX2 1
#include <immintrin.h>
#else
#define BLUELM_RESIZE_AVX2 0
#endif

namespace bluelm {

namespace {

// Pillow's 8-bit arithmetic: coefficients are rounded to 22 fractional bits (32 - 8 bits of pixel - 2 of head
// room for the filter's overshoot), products are summed in int32 from one half, and each pass ends in a clip
// to a byte. Integer sums do not depend on the order of their terms, so the kernels below may run in any.
constexpr int kPrecisionBits = 22;

// The taps of each output position: `size` coefficients (zero behind `count`) of input positions start...
struct Taps {
    int size = 0;
    std::vector<int> start, count;
    std::vector<int32_t> weights;  // [n_out, size]

    const int32_t* of(int i) const { return weights.data() + static_cast<size_t>(i) * size; }
};

// Keys' cubic with a = -0.5, Pillow's BICUBIC. The form of the polynomials decides the last bit: keep it.
double cubic(double x) {
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

double triangle(double x) {
    x = std::fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

Taps make_taps(int n_in, int n_out, int filter) {
    const bool bilinear = filter == BLUELM_FILTER_BILINEAR;
    const double scale = static_cast<double>(n_in) / n_out;
    const double stretch = std::max(scale, 1.0);  // antialiasing: the filter widens when the picture shrinks
    const double support = (bilinear ? 1.0 : 2.0) * stretch;
    const double inverse = 1.0 / stretch;

    Taps taps;
    taps.size = static_cast<int>(std::ceil(support)) * 2 + 1;
    taps.start.resize(n_out);
    taps.count.resize(n_out);
    taps.weights.assign(static_cast<size_t>(n_out) * taps.size, 0);
    std::vector<double> exact(taps.size);
    for (int i = 0; i < n_out; ++i) {
        const double center = (i + 0.5) * scale;
        const int first = std::max(static_cast<int>(center - support + 0.5), 0);
        const int last = std::min(static_cast<int>(center + support + 0.5), n_in);
        double sum = 0.0;
        for (int k = 0; k < last - first; ++k) {
            const double x = (k + first - center + 0.5) * inverse;
            exact[k] = bilinear ? triangle(x) : cubic(x);
            sum += exact[k];
        }
        taps.start[i] = first;
        taps.count[i] = last - first;
        int32_t* weights = taps.weights.data() + static_cast<size_t>(i) * taps.size;
        for (int k = 0; k < last - first; ++k) {
            const double w = (sum != 0.0 ? exact[k] / sum : exact[k]) * (1 << kPrecisionBits);
            weights[k] = static_cast<int32_t>(w < 0 ? w - 0.5 : w + 0.5);
        }
    }
    return taps;
}

// Both passes are this: out[i] = clip(sum over k of weights[k] * in[k * stride + i]) for kBlock neighbouring
// bytes.
constexpr int kStripRows = 16;
constexpr int kBlock = 3 * kStripRows;

using WeighBlock = void (*)(const uint8_t* in, ptrdiff_t stride, const int32_t* weights, int n_taps,
                            uint8_t* out);

// Compilers vectorise the loops over i; with their constant count the sums stay in registers.
void weigh_block_plain(const uint8_t* in, ptrdiff_t stride, const int32_t* weights, int n_taps,
                       uint8_t* out) {
    int32_t sum[kBlock];
    for (int i = 0; i < kBlock; ++i) sum[i] = 1 << (kPrecisionBits - 1);
    for (int k = 0; k < n_taps; ++k) {
        const uint8_t* tap = in + k * stride;
        const int32_t w = weights[k];
        for (int i = 0; i < kBlock; ++i) sum[i] += w * tap[i];
    }
    for (int i = 0; i < kBlock; ++i)
        out[i] = static_cast<uint8_t>(std::clamp(sum[i] >> kPrecisionBits, 0, 255));
}

#if BLUELM_RESIZE_AVX2
// The x86-64 baseline has no 32-bit vector multiplication, and compilers widen bytes with twice the shuffles.
__attribute__((target("avx2"))) void weigh_block_avx2(const uint8_t* in, ptrdiff_t stride,
                                                      const int32_t* weights, int n_taps, uint8_t* out) {
    __m256i sum[kBlock / 8];
    for (__m256i& s : sum) s = _mm256_set1_epi32(1 << (kPrecisionBits - 1));
    for (int k = 0; k < n_taps; ++k, in += stride) {
        const __m256i w = _mm256_set1_epi32(weights[k]);
        for (int i = 0; i < kBlock / 8; ++i) {
            const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + 8 * i));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), w));
        }
    }
    for (int i = 0; i < kBlock / 16; ++i) {  // narrowing saturates: the clip
        const __m256i a = _mm256_srai_epi32(sum[2 * i], kPrecisionBits);
        const __m256i b = _mm256_srai_epi32(sum[2 * i + 1], kPrecisionBits);
        const __m256i words =
            _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);  // packs halves crosswise
        const __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * i), bytes);
    }
}
#endif

WeighBlock choose_weigh_block() {
#if BLUELM_RESIZE_AVX2
    if (__builtin_cpu_supports("avx2")) return weigh_block_avx2;
#endif
    return weigh_block_plain;
}

const WeighBlock weigh_block = choose_weigh_block();

// One output row of `n` bytes from rows `stride` apart.
void weigh_rows(const uint8_t* in, ptrdiff_t stride, const int32_t* weights, int n_taps, int n,
                uint8_t* out) {
    if (n < kBlock) {
        for (int i = 0; i < n; ++i) {
            int32_t sum = 1 << (kPrecisionBits - 1);
            for (int k = 0; k < n_taps; ++k) sum += weights[k] * in[k * stride + i];
            out[i] = static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
        }
        return;
    }
    for (int i = 0; i < n; i += kBlock) {
        const int at = std::min(i, n - kBlock);  // the last block overlaps the one before: same sums, no tail
        weigh_block(in + at, stride, weights, n_taps, out + at);
    }
}

// All output columns of a strip: in [n_in, kStripRows, 3] (a picture's columns, see load_strip), out [n_out,
// kStripRows, 3].
void weigh_strip(const uint8_t* in, const Taps& taps, uint8_t* out) {
    const int n_out = static_cast<int>(taps.start.size());
    for (int i = 0; i < n_out; ++i) {
        weigh_block(in + static_cast<ptrdiff_t>(taps.start[i]) * kBlock, kBlock, taps.of(i), taps.count[i],
                    out + static_cast<ptrdiff_t>(i) * kBlock);
    }
}

constexpr int kStripColumns = 16;  // few enough for all rows' cache lines to stay while they are gone through

// `rows` rows as columns: src [rows, width, 3] to strip [width, kStripRows, 3]; the last row fills up the
// rest.
void load_strip(const uint8_t* src, int width, int rows, uint8_t* strip) {
    for (int x0 = 0; x0 < width; x0 += kStripColumns) {
        const int x1 = std::min(x0 + kStripColumns, width);
        for (int r = 0; r < kStripRows; ++r) {
            const uint8_t* from = src + static_cast<size_t>(std::min(r, rows - 1)) * width * 3;
            for (int x = x0; x < x1; ++x) std::memcpy(strip + x * kBlock + r * 3, from + x * 3, 3);
        }
    }
}

// The way back: strip [width, kStripRows, 3] to dst [rows, width, 3].
void store_strip(const uint8_t* strip, int width, int rows, uint8_t* dst) {
    for (int x0 = 0; x0 < width; x0 += kStripColumns) {
        const int x1 = std::min(x0 + kStripColumns, width);
        for (int r = 0; r < rows; ++r) {
            uint8_t* to = dst + static_cast<size_t>(r) * width * 3;
            for (int x = x0; x < x1; ++x) std::memcpy(to + x * 3, strip + x * kBlock + r * 3, 3);
        }
    }
}

// The horizontal pass, a strip of rows at a time.
class Horizontal {
public:
    Horizontal(int src_width, int dst_width, int filter)
        : src_width_(src_width),
          dst_width_(dst_width),
          taps_(make_taps(src_width, dst_width, filter)),
          columns_(static_cast<size_t>(src_width) * kBlock),
          weighed_(static_cast<size_t>(dst_width) * kBlock) {}

    // src [rows, src_width, 3] to dst [rows, dst_width, 3], rows <= kStripRows.
    void run(const uint8_t* src, int rows, uint8_t* dst) {
        load_strip(src, src_width_, rows, columns_.data());
        weigh_strip(columns_.data(), taps_, weighed_.data());
        store_strip(weighed_.data(), dst_width_, rows, dst);
    }

private:
    int src_width_, dst_width_;
    Taps taps_;
    std::vector<uint8_t> columns_;  // [src_width, kStripRows, 3]
    std::vector<uint8_t> weighed_;  // [dst_width, kStripRows, 3]
};

// The horizontal pass runs just ahead of the vertical one, in a window that slides over its rows.
void resize_horizontal_first(const uint8_t* src, int src_width, int src_height, uint8_t* dst,
                             const Taps& taps, Horizontal& horizontal, int dst_width, int dst_height) {
    const size_t src_pitch = static_cast<size_t>(src_width) * 3;
    const size_t pitch = static_cast<size_t>(dst_width) * 3;
    const int end = taps.start[dst_height - 1] + taps.count[dst_height - 1];  // rows behind it are not needed
    const int capacity = std::min(2 * taps.size + 4 * kStripRows, src_height + kStripRows);
    std::vector<uint8_t> window(pitch * capacity);
    int window_begin = taps.start[0], window_end = taps.start[0];  // the source rows in `window`
    for (int y = 0; y < dst_height; ++y) {
        const int first = taps.start[y];
        while (window_end < first + taps.count[y]) {
            const int rows = std::min(kStripRows, end - window_end);
            if (window_end - window_begin + rows > capacity) {
                std::memmove(window.data(), window.data() + (first - window_begin) * pitch,
                             (window_end - first) * pitch);
                window_begin = first;
            }
            horizontal.run(src + window_end * src_pitch, rows,
                           window.data() + (window_end - window_begin) * pitch);
            window_end += rows;
        }
        weigh_rows(window.data() + (first - window_begin) * pitch, static_cast<ptrdiff_t>(pitch), taps.of(y),
                   taps.count[y], static_cast<int>(pitch), dst + y * pitch);
    }
}

void resize_vertical_first(const uint8_t* src, int src_width, uint8_t* dst, const Taps& taps,
                           Horizontal& horizontal, int dst_width, int dst_height) {
    const size_t src_pitch = static_cast<size_t>(src_width) * 3;
    std::vector<uint8_t> strip(src_pitch * kStripRows);
    for (int y0 = 0; y0 < dst_height; y0 += kStripRows) {
        const int rows = std::min(kStripRows, dst_height - y0);
        for (int y = y0; y < y0 + rows; ++y) {
            weigh_rows(src + taps.start[y] * src_pitch, static_cast<ptrdiff_t>(src_pitch), taps.of(y),
                       taps.count[y], static_cast<int>(src_pitch), strip.data() + (y - y0) * src_pitch);
        }
        horizontal.run(strip.data(), rows, dst + static_cast<size_t>(y0) * dst_width * 3);
    }
}

}  // namespace

void resize_rgb8(const uint8_t* src, int src_width, int src_height, uint8_t* dst, int dst_width,
                 int dst_height, int filter) {
    const size_t src_pitch = static_cast<size_t>(src_width) * 3;
    const size_t dst_pitch = static_cast<size_t>(dst_width) * 3;

    // A pass that would change nothing is left out.
    if (src_width == dst_width && src_height == dst_height) {
        std::memcpy(dst, src, dst_pitch * dst_height);
        return;
    }
    if (src_height == dst_height) {
        Horizontal horizontal(src_width, dst_width, filter);
        for (int y = 0; y < src_height; y += kStripRows) {
            horizontal.run(src + y * src_pitch, std::min(kStripRows, src_height - y), dst + y * dst_pitch);
        }
        return;
    }
    const Taps taps = make_taps(src_height, dst_height, filter);
    if (src_width == dst_width) {
        for (int y = 0; y < dst_height; ++y) {
            weigh_rows(src + taps.start[y] * src_pitch, static_cast<ptrdiff_t>(src_pitch), taps.of(y),
                       taps.count[y], static_cast<int>(src_pitch), dst + y * dst_pitch);
        }
        return;
    }

    // Rounding to bytes between the passes makes their order visible. Pillow's own since 13.0: vertical first
    // where the height shrinks by more than twice what the width does; before that it was always horizontal
    // first.
    Horizontal horizontal(src_width, dst_width, filter);
    const int less_high = src_height - dst_height, less_wide = src_width - dst_width;
    if (less_high > 0 && less_high > 2 * static_cast<int64_t>(less_wide)) {
        resize_vertical_first(src, src_width, dst, taps, horizontal, dst_width, dst_height);
    } else {
        resize_horizontal_first(src, src_width, src_height, dst, taps, horizontal, dst_width, dst_height);
    }
}

}  // namespace bluelm
