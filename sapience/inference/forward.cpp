// The network's forward pass over a latent cache in pages, on a CPU, for drawing: any number of tokens of any
// sequences, at any positions, in one call (DeepSeek-V3 report, section 2.1; attention in its absorbed form). Weights are read
// where PyTorch keeps them. A weight is read once for all tokens of a call; one call is one team of threads.
//
// Every number is added up in an order that depends neither on what else is computed in the call nor on the number of threads:
// a token's result has the same bits alone and in a batch, in a prompt read at once or in pieces.
//
// A prediction module (section 2.2) is a model of one layer whose rows begin as a join of the token's embedding and the main
// model's state. Matrices are in float32, or in 8 bits with a factor a row; everything is added up in float32. Structures mirror
// those of native_network.py. Not covered: gradients.

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __FMA__
#include <immintrin.h>
#endif

extern "C" int omp_get_thread_num();

#ifdef __AVX512F__
constexpr int LANES = 16, AT_ONCE = 4;  // 16 sums and 5 factors in 32 registers
#else
constexpr int LANES = 8, AT_ONCE = 2;   // 8 and 5 in 16
#endif
typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Words __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));


constexpr int CHUNK = 32;             // outputs of a product that a thread takes at a time
constexpr int MOST_EXPERTS = 1024, MOST_GROUPS = 64, MOST_LATENT = 2048;

// Rows of a matrix, or of several one after another: floats, or bytes where there are factors, one a row.
struct Matrix {
    const void *rows;
    const float *factors;
    explicit operator bool() const { return rows; }
};

struct Layer {
    const float *attention_norm, *q_norm, *kv_norm, *kv_up, *feed_norm;
    Matrix q_down;                    // null where queries are not compressed
    Matrix q_up, kv_down, out;
    const float *gate, *bias;         // null in a dense layer
    Matrix gate_up, down;             // a dense layer's, or the shared experts'; null where there are none
    Matrix experts_gate_up, experts_down;
    float *cache;                     // [pages, page, rank + rope]: normalised latent, rotated key
};

struct Model {
    int32_t layers, hidden, heads, q_rank, rank, nope, rope, value, vocabulary;
    int32_t inner, shared_inner, expert_inner, experts, choices, groups, open_groups, counted, softmax_gate, norm_weights;
    float eps, scale, routed_factor;
    const float *embedding, *norm, *embedding_norm, *state_norm;
    Matrix head, join;                // join [hidden, 2 hidden] and the two norms before it are a prediction module's; else null
    const Layer *layer;
};

struct Batch {
    int32_t tokens, page, pages_per_row, positions, wanted, threads;
    const int64_t *token;             // [tokens]
    const int32_t *position, *row;    // [tokens]: place in its sequence, and the sequence's row of the table
    const int32_t *table;             // [rows, pages_per_row]: the pages of each sequence in order
    const float *cosines, *sines;     // [positions, rope / 2]
    const int32_t *want;              // [wanted]: the tokens whose logits are asked for
    float *logits;                    // [wanted, vocabulary]
    const float *given;               // [tokens, hidden]: states that a prediction module joins; else null
    float *states;                    // [tokens, hidden]: states after the final norm; null where nobody wants them
    float *scratch;                   // scratch_size() floats
};

static inline Four folded(Vector v) {
#ifdef __AVX512F__
    Eight half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    Eight half = v;
#endif
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
}

// The sums of four vectors' elements.
static inline Four totals(Vector a, Vector b, Vector c, Vector d) {
    Four p = folded(a), q = folded(b), r = folded(c), s = folded(d);
    Four pq = __builtin_shufflevector(p, q, 0, 1, 4, 5) + __builtin_shufflevector(p, q, 2, 3, 6, 7);
    Four rs = __builtin_shufflevector(r, s, 0, 1, 4, 5) + __builtin_shufflevector(r, s, 2, 3, 6, 7);
    return __builtin_shufflevector(pq, rs, 0, 2, 4, 6) + __builtin_shufflevector(pq, rs, 1, 3, 5, 7);
}

static inline float total(Vector v) { return totals(v, v, v, v)[0]; }

// a b + c. Which products are rounded is said here, once: left to the compiler, it differs from one size of tile to another.
static inline Vector fused(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
    return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

static inline float fused(float a, float b, float c) {
#ifdef __FMA__
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}

// Loaded into a register once; the compiler would load it again for every product.
static inline Vector held(Vector v) {
#ifdef __AVX__
    asm("" : "+v"(v));
#endif
    return v;
}

static inline Vector loaded(const float *w) { return *(const Vector *)w; }
static inline Vector loaded(const int8_t *w) {  // said in one step, the compiler converts number by number
#if defined(__AVX512F__)
    return (Vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)w)));
#elif defined(__AVX2__)
    return (Vector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)w)));
#else
    return __builtin_convertvector(*(const Bytes *)w, Vector);
#endif
}

// y[b, n] = w[n, :] x[b, :] for N rows of w and B of x. With FETCH the rows of w behind these are on their way meanwhile.
template <int N, int B, bool FETCH = false, class T>
static inline void tile(const T *w, const float *x, float *y, int width, int64_t x_stride, int64_t y_stride) {
    Vector sums[N][B], left[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++)
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) sums[n][b] = Vector{};
    int k = 0;
    for (; k + LANES <= width; k += LANES) {
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
            left[n] = held(loaded(w + (int64_t)n * width + k));
            if (FETCH) __builtin_prefetch(w + (int64_t)(n + N) * width + k);
        }
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) {
            Vector right = held(*(const Vector *)(x + b * x_stride + k));
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) sums[n][b] = fused(left[n], right, sums[n][b]);
        }
    }
#pragma GCC unroll 8
    for (int b = 0; b < B; b++) {
        float sum[N];
        if constexpr (N == 4)
            *(Four *)sum = totals(sums[0][b], sums[1][b], sums[2][b], sums[3][b]);
        else
            sum[0] = total(sums[0][b]);
        for (int n = 0; n < N; n++) {
            for (int i = k; i < width; i++) sum[n] = fused((float)w[(int64_t)n * width + i], x[b * x_stride + i], sum[n]);
            y[b * y_stride + n] = sum[n];
        }
    }
}

// y = sum over i of factor[i] row i, rows [count, stride] of so many columns; in order of i.
template <int N>
static inline void mix_block(const float *rows, const float *factor, float *y, int count, int64_t stride, bool more) {
    Vector sums[N];
    for (int j = 0; j < N; j++) sums[j] = more ? *(const Vector *)(y + j * LANES) : Vector{};
    for (int i = 0; i < count; i++)
        for (int j = 0; j < N; j++) sums[j] = fused(Vector{} + factor[i], *(const Vector *)(rows + i * stride + j * LANES), sums[j]);
    for (int j = 0; j < N; j++) *(Vector *)(y + j * LANES) = sums[j];
}

static void mix(const float *rows, const float *factor, float *y, int count, int columns, int64_t stride, bool more) {
    int c = 0;
    for (; c + 4 * LANES <= columns; c += 4 * LANES) mix_block<4>(rows + c, factor, y + c, count, stride, more);
    for (; c + LANES <= columns; c += LANES) mix_block<1>(rows + c, factor, y + c, count, stride, more);
    for (; c < columns; c++) {
        float sum = more ? y[c] : 0;
        for (int i = 0; i < count; i++) sum = fused(factor[i], rows[i * stride + c], sum);
        y[c] = sum;
    }
}

// Tiles of B rows of x, then of what is left.
template <int N, int B, class T>
static inline void columns(const T *w, const float *x, float *y, int rows, int width, int64_t x_stride, int64_t y_stride) {
    if (rows >= B) tile<N, B, true>(w, x, y, width, x_stride, y_stride);
    int b = B;
    for (; b + B <= rows; b += B) tile<N, B>(w, x + b * x_stride, y + b * y_stride, width, x_stride, y_stride);
    b = rows / B * B;
    if constexpr (B > 1)
        if (rows > b) columns<N, B - 1>(w, x + b * x_stride, y + b * y_stride, rows - b, width, x_stride, y_stride);
}

// y[b, n] = w[n, :] x[b, :] for n from begin to end.
template <class T>
static void product(const T *w, const float *x, float *y, int begin, int end, int rows, int width, int64_t x_stride, int64_t y_stride) {
    int n = begin;
    for (; n + 4 <= end; n += 4) columns<4, AT_ONCE>(w + (int64_t)n * width, x, y + n, rows, width, x_stride, y_stride);
    for (; n < end; n++) columns<1, AT_ONCE>(w + (int64_t)n * width, x, y + n, rows, width, x_stride, y_stride);
}

// The same for the rows of a matrix from `first` on.
static void product(const Matrix &w, int64_t first, const float *x, float *y, int begin, int end, int rows, int width, int64_t y_stride) {
    if (!w.factors) {
        product((const float *)w.rows + first * width, x, y, begin, end, rows, width, width, y_stride);
        return;
    }
    product((const int8_t *)w.rows + first * width, x, y, begin, end, rows, width, width, y_stride);
    for (int b = 0; b < rows; b++)
        for (int n = begin; n < end; n++) y[b * y_stride + n] *= w.factors[first + n];
}

// The same for all outputs, by all threads.
static void shared_product(const Matrix &w, const float *x, float *y, int outputs, int rows, int width) {
    int chunks = (outputs + CHUNK - 1) / CHUNK;
#pragma omp for schedule(static)
    for (int c = 0; c < chunks; c++) {
        int end = (c + 1) * CHUNK < outputs ? (c + 1) * CHUNK : outputs;
        product(w, 0, x, y, c * CHUNK, end, rows, width, outputs);
    }
}

static inline float dot(const float *a, const float *b, int width) {
    float y;
    tile<1, 1>(a, b, &y, width, 0, 0);
    return y;
}

static void norm(const float *x, const float *weight, float *y, int width, float eps) {
    float factor = 1.0f / std::sqrt(dot(x, x, width) / width + eps);
    for (int i = 0; i < width; i++) y[i] = x[i] * factor * weight[i];
}

// e^x as 2^n times a polynomial, relative error below 2e-7; what lies beyond float32's range becomes its end.
static inline Vector exponential(Vector x) {
    x = x * 1.4426950408889634f;
    x = x < -126.0f ? (Vector{} - 126.0f) : x;
    x = x > 126.0f ? (Vector{} + 126.0f) : x;
    Vector away = x < 0.0f ? (Vector{} - 0.5f) : (Vector{} + 0.5f);
    Vector whole = __builtin_convertvector(__builtin_convertvector(x + away, Words), Vector);
    Vector rest = x - whole;
    Vector p = Vector{} + 1.535336188319500e-4f;
    p = fused(p, rest, Vector{} + 1.339887440266574e-3f);
    p = fused(p, rest, Vector{} + 9.618437357674640e-3f);
    p = fused(p, rest, Vector{} + 5.550332471162809e-2f);
    p = fused(p, rest, Vector{} + 2.402264791363012e-1f);
    p = fused(p, rest, Vector{} + 6.931472028550421e-1f);
    p = fused(p, rest, Vector{} + 1.0f);
    Words bits = (__builtin_convertvector(whole, Words) + 127) << 23;
    return p * (Vector)bits;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

static void swiglu(const float *gate_up, float *y, int width, float weight) {
    int i = 0;
    for (; i + LANES <= width; i += LANES) {
        Vector gate = *(const Vector *)(gate_up + i), up = *(const Vector *)(gate_up + width + i);
        *(Vector *)(y + i) = gate / (1.0f + exponential(-gate)) * up * weight;
    }
    for (; i < width; i++) y[i] = gate_up[i] * sigmoid(gate_up[i]) * gate_up[width + i] * weight;
}

// Turns adjacent pairs of a key or query at this position.
static void rotate(const float *x, float *y, const Batch &b, int position, int width) {
    const float *cosines = b.cosines + (int64_t)position * (width / 2), *sines = b.sines + (int64_t)position * (width / 2);
    for (int i = 0; i < width / 2; i++) {
        float even = x[2 * i], odd = x[2 * i + 1];
        y[2 * i] = even * cosines[i] - odd * sines[i];
        y[2 * i + 1] = even * sines[i] + odd * cosines[i];
    }
}

// The experts of one token, best first, and their weights.
static void choose(const Model &m, const float *logits, const float *bias, int32_t *chosen, float *weights) {
    int count = m.experts, size = count / m.groups;
    float affinity[MOST_EXPERTS], biased[MOST_EXPERTS], score[MOST_GROUPS];
    if (m.softmax_gate) {
        float top = logits[0], sum = 0;
        for (int e = 1; e < count; e++) top = logits[e] > top ? logits[e] : top;
        for (int e = 0; e < count; e++) sum += affinity[e] = std::exp(logits[e] - top);
        for (int e = 0; e < count; e++) affinity[e] /= sum;
    } else
        for (int e = 0; e < count; e++) affinity[e] = sigmoid(logits[e]);
    for (int e = 0; e < count; e++) biased[e] = affinity[e] + bias[e];
    if (m.groups > 1) {
        for (int g = 0; g < m.groups; g++) {
            float best = -INFINITY, second = -INFINITY;
            for (int e = g * size; e < (g + 1) * size; e++) {
                float a = biased[e];
                if (a > best) second = best, best = a;
                else if (a > second) second = a;
            }
            score[g] = m.counted == 2 ? best + second : best;
        }
        bool open[MOST_GROUPS] = {};
        for (int i = 0; i < m.open_groups; i++) {
            int best = -1;
            for (int g = 0; g < m.groups; g++)
                if (!open[g] && (best < 0 || score[g] > score[best])) best = g;
            open[best] = true;
        }
        for (int e = 0; e < count; e++)
            if (!open[e / size]) biased[e] = -INFINITY;
    }
    float sum = 0;
    for (int i = 0; i < m.choices; i++) {
        int best = 0;
        for (int e = 1; e < count; e++)
            if (biased[e] > biased[best]) best = e;
        chosen[i] = best;
        sum += weights[i] = affinity[best];
        biased[best] = -INFINITY;
    }
    for (int i = 0; i < m.choices; i++)
        weights[i] = (m.norm_weights ? weights[i] / (sum + 1e-20f) : weights[i]) * m.routed_factor;
}

// One head of one token: what it takes from the values it sees, [value].
static void attend(const Model &m, const Layer &l, const Batch &b, int t, int h, const float *q, float *out, float *scores) {
    int width = m.rank + m.rope, position = b.position[t], count = position + 1;
    const float *up = l.kv_up + (int64_t)h * (m.nope + m.value) * m.rank;
    const int32_t *pages = b.table + (int64_t)b.row[t] * b.pages_per_row;
    float query[MOST_LATENT], mixed[MOST_LATENT];
    mix(up, q, query, m.nope, m.rank, m.rank, false);
    rotate(q + m.nope, query + m.rank, b, position, m.rope);
    for (int i = 0; i < width; i++) query[i] *= m.scale;
    float top = -INFINITY;
    for (int s = 0; s < count; s += b.page) {
        const float *page = l.cache + (int64_t)pages[s / b.page] * b.page * width;
        int end = count - s < b.page ? count - s : b.page;
        product(page, query, scores + s, 0, end, 1, width, 0, 0);
    }
    for (int s = 0; s < count; s++) top = scores[s] > top ? scores[s] : top;
    for (int s = count; s % LANES; s++) scores[s] = -INFINITY;
    Vector sums = {};
    for (int s = 0; s < count; s += LANES) {
        Vector e = exponential(*(Vector *)(scores + s) - top);
        for (int i = 0; i < LANES; i++)
            if (s + i >= count) e[i] = 0;
        *(Vector *)(scores + s) = e;
        sums += e;
    }
    float inverse = 1.0f / total(sums);
    for (int s = 0; s < count; s += b.page) {
        const float *page = l.cache + (int64_t)pages[s / b.page] * b.page * width;
        mix(page, scores + s, mixed, count - s < b.page ? count - s : b.page, m.rank, width, s > 0);
    }
    for (int r = 0; r < m.rank; r++) mixed[r] *= inverse;
    product(up + (int64_t)m.nope * m.rank, mixed, out, 0, m.value, 1, m.rank, 0, 0);
}

// What a call works with, row after row, a row for each token or for each token's copy at an expert.
struct Room {
    float *x, *joined, *normed, *added, *q_low, *q, *kv, *values, *logits, *products, *inner;
    float *copies, *copy_products, *copy_inner, *copy_out, *weights, *scores;
    int32_t *chosen, *place, *source, *first;
    int64_t size;
};

static Room divided(const Model &m, int64_t tokens, int64_t positions, int64_t threads, float *from) {
    Room room;
    int64_t at = 0, copies = tokens * m.choices, inner = m.inner > m.shared_inner ? m.inner : m.shared_inner;
    auto take = [&](int64_t count) {
        float *place = from + at;
        at += (count + 15) / 16 * 16;
        return place;
    };
    room.x = take(tokens * m.hidden);
    room.joined = take(m.join ? 2 * tokens * m.hidden : 0);
    room.normed = take(tokens * m.hidden);
    room.added = take(tokens * m.hidden);
    room.q_low = take(tokens * m.q_rank);
    room.q = take(tokens * m.heads * (m.nope + m.rope));
    room.kv = take(tokens * (m.rank + m.rope));
    room.values = take(tokens * m.heads * m.value);
    room.logits = take(tokens * m.experts);
    room.products = take(tokens * 2 * inner);
    room.inner = take(tokens * inner);
    room.copies = take(copies * m.hidden);
    room.copy_products = take(copies * 2 * m.expert_inner);
    room.copy_inner = take(copies * m.expert_inner);
    room.copy_out = take(copies * m.hidden);
    room.weights = take(copies);
    room.scores = take(threads * (positions + LANES));
    room.chosen = (int32_t *)take(copies);
    room.place = (int32_t *)take(copies);
    room.source = (int32_t *)take(copies);
    room.first = (int32_t *)take(m.experts + 2);
    room.size = at;
    return room;
}

// Adds attention's result to every row.
static void attention(const Model &m, const Layer &l, const Batch &b, const Room &room) {
    int64_t width = m.rank + m.rope, q_width = m.heads * (m.nope + m.rope), v_width = m.heads * m.value;
    shared_product(l.kv_down, room.normed, room.kv, width, b.tokens, m.hidden);
    if (l.q_down) {
        shared_product(l.q_down, room.normed, room.q_low, m.q_rank, b.tokens, m.hidden);
#pragma omp for schedule(static)
        for (int t = 0; t < b.tokens; t++) {
            float *low = room.q_low + (int64_t)t * m.q_rank;
            norm(low, l.q_norm, low, m.q_rank, m.eps);
        }
    }
    shared_product(l.q_up, l.q_down ? room.q_low : room.normed, room.q, q_width, b.tokens, l.q_down ? m.q_rank : m.hidden);
#pragma omp for schedule(static)
    for (int t = 0; t < b.tokens; t++) {
        int position = b.position[t], page = b.table[(int64_t)b.row[t] * b.pages_per_row + position / b.page];
        float *slot = l.cache + ((int64_t)page * b.page + position % b.page) * width;
        const float *kv = room.kv + t * width;
        norm(kv, l.kv_norm, slot, m.rank, m.eps);
        rotate(kv + m.rank, slot + m.rank, b, position, m.rope);
    }
    float *scores = room.scores + (int64_t)omp_get_thread_num() * (b.positions + LANES);
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int t = 0; t < b.tokens; t++)
        for (int h = 0; h < m.heads; h++)
            attend(m, l, b, t, h, room.q + t * q_width + h * (m.nope + m.rope), room.values + t * v_width + h * m.value, scores);
    shared_product(l.out, room.values, room.added, m.hidden, b.tokens, v_width);
#pragma omp for schedule(static)
    for (int t = 0; t < b.tokens; t++) {
        float *row = room.x + (int64_t)t * m.hidden;
        for (int d = 0; d < m.hidden; d++) row[d] += room.added[(int64_t)t * m.hidden + d];
        norm(row, l.feed_norm, room.normed + (int64_t)t * m.hidden, m.hidden, m.eps);
    }
}

// The routed experts' results for every copy of a token, in `copy_out` at the copy's place; copies lie sorted by expert.
static void routed_experts(const Model &m, const Layer &l, const Batch &b, const Room &room) {
    int copies = b.tokens * m.choices, width = m.expert_inner, up_chunks = (2 * width + CHUNK - 1) / CHUNK;
    int down_chunks = (m.hidden + CHUNK - 1) / CHUNK;
    shared_product(Matrix{l.gate, nullptr}, room.normed, room.logits, m.experts, b.tokens, m.hidden);
#pragma omp for schedule(static)
    for (int t = 0; t < b.tokens; t++)
        choose(m, room.logits + (int64_t)t * m.experts, l.bias, room.chosen + t * m.choices, room.weights + t * m.choices);
#pragma omp single
    {
        std::memset(room.first, 0, (m.experts + 2) * sizeof(int32_t));
        for (int c = 0; c < copies; c++) room.first[room.chosen[c] + 2]++;
        for (int e = 1; e < m.experts; e++) room.first[e + 1] += room.first[e];
        for (int c = 0; c < copies; c++) {
            room.place[c] = room.first[room.chosen[c] + 1]++;  // ends as the first of the next expert
            room.source[room.place[c]] = c;
        }
    }
#pragma omp for schedule(static)
    for (int c = 0; c < copies; c++)
        std::memcpy(room.copies + (int64_t)c * m.hidden, room.normed + (int64_t)(room.source[c] / m.choices) * m.hidden,
                    m.hidden * sizeof(float));
#pragma omp for collapse(2) schedule(dynamic)
    for (int e = 0; e < m.experts; e++)
        for (int c = 0; c < up_chunks; c++) {
            int64_t first = room.first[e];
            int count = room.first[e + 1] - first, end = (c + 1) * CHUNK < 2 * width ? (c + 1) * CHUNK : 2 * width;
            product(l.experts_gate_up, (int64_t)e * 2 * width, room.copies + first * m.hidden,
                    room.copy_products + first * 2 * width, c * CHUNK, end, count, m.hidden, 2 * width);
        }
#pragma omp for schedule(static)
    for (int64_t c = 0; c < copies; c++)
        swiglu(room.copy_products + c * 2 * width, room.copy_inner + c * width, width, room.weights[room.source[c]]);
#pragma omp for collapse(2) schedule(dynamic)
    for (int e = 0; e < m.experts; e++)
        for (int c = 0; c < down_chunks; c++) {
            int64_t first = room.first[e];
            int count = room.first[e + 1] - first, end = (c + 1) * CHUNK < m.hidden ? (c + 1) * CHUNK : m.hidden;
            product(l.experts_down, (int64_t)e * m.hidden, room.copy_inner + first * width, room.copy_out + first * m.hidden,
                    c * CHUNK, end, count, width, m.hidden);
        }
}

// Adds the feed-forward's result to every row and leaves in `normed` what the next layer, or the head, takes.
static void feed_forward(const Model &m, const Layer &l, const Batch &b, const Room &room, const float *next_norm) {
    int64_t width = l.gate ? m.shared_inner : m.inner;
    if (l.gate) routed_experts(m, l, b, room);
    if (l.gate_up) {
        shared_product(l.gate_up, room.normed, room.products, 2 * width, b.tokens, m.hidden);
#pragma omp for schedule(static)
        for (int t = 0; t < b.tokens; t++) swiglu(room.products + t * 2 * width, room.inner + t * width, width, 1.0f);
        shared_product(l.down, room.inner, room.added, m.hidden, b.tokens, width);
    }
#pragma omp for schedule(static)
    for (int64_t t = 0; t < b.tokens; t++) {
        float *row = room.x + t * m.hidden;
        if (l.gate_up)
            for (int d = 0; d < m.hidden; d++) row[d] += room.added[t * m.hidden + d];
        for (int k = 0; l.gate && k < m.choices; k++) {
            const float *out = room.copy_out + (int64_t)room.place[t * m.choices + k] * m.hidden;
            for (int d = 0; d < m.hidden; d++) row[d] += out[d];
        }
        norm(row, next_norm, room.normed + t * m.hidden, m.hidden, m.eps);
    }
}

// What both sides have to agree on.
extern "C" void sizes(int32_t *of) {
    of[0] = sizeof(Layer), of[1] = sizeof(Model), of[2] = sizeof(Batch);
    of[3] = MOST_EXPERTS, of[4] = MOST_GROUPS, of[5] = MOST_LATENT;
}

extern "C" int64_t scratch_size(const Model *model, int32_t tokens, int32_t positions, int32_t threads) {
    return divided(*model, tokens, positions, threads, nullptr).size;
}

extern "C" void forward(const Model *model, const Batch *batch) {
    const Model &m = *model;
    const Batch &b = *batch;
    Room room = divided(m, b.tokens, b.positions, b.threads, b.scratch);
#pragma omp parallel num_threads(b.threads)
    {
        if (m.join) {
#pragma omp for schedule(static)
            for (int64_t t = 0; t < b.tokens; t++) {
                float *row = room.joined + 2 * t * m.hidden;
                norm(m.embedding + b.token[t] * m.hidden, m.embedding_norm, row, m.hidden, m.eps);
                norm(b.given + t * m.hidden, m.state_norm, row + m.hidden, m.hidden, m.eps);
            }
            shared_product(m.join, room.joined, room.x, m.hidden, b.tokens, 2 * m.hidden);
        }
#pragma omp for schedule(static)
        for (int64_t t = 0; t < b.tokens; t++) {
            float *row = room.x + t * m.hidden;
            if (!m.join) std::memcpy(row, m.embedding + b.token[t] * m.hidden, m.hidden * sizeof(float));
            norm(row, m.layer[0].attention_norm, room.normed + t * m.hidden, m.hidden, m.eps);
        }
        for (int i = 0; i < m.layers; i++) {
            attention(m, m.layer[i], b, room);
            feed_forward(m, m.layer[i], b, room, i + 1 < m.layers ? m.layer[i + 1].attention_norm : m.norm);
        }
        if (b.states) {
#pragma omp for schedule(static)
            for (int64_t t = 0; t < b.tokens; t++)
                std::memcpy(b.states + t * m.hidden, room.normed + t * m.hidden, m.hidden * sizeof(float));
        }
#pragma omp for schedule(static)
        for (int64_t w = 0; w < b.wanted; w++)
            std::memcpy(room.added + w * m.hidden, room.normed + (int64_t)b.want[w] * m.hidden, m.hidden * sizeof(float));
        shared_product(m.head, room.added, b.logits, m.vocabulary, b.wanted, m.hidden);
    }
}
